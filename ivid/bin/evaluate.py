"""Measure what clips show: adherence to their prompts, from the pixels alone; and what super-resolution adds to ground truth.

ivid evaluate --metrics=adherence --cascade=nano --stop_stage=ssr1 --prompts=25 --out=eval
ivid evaluate --metrics=adherence --cascade=nano --images --prompts=100 --out=eval
ivid evaluate --metrics=adherence --clips=out --out=eval
ivid evaluate --metrics=upsampling --cascade=nano --start_stage=tsr1 --stop_stage=tsr3 --prompts=4 --out=eval
ivid evaluate --metrics=upsampling --clips=FOLDER --start_stage=ssr2 --stop_stage=ssr2 --out=eval
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from ivid.runs.cache import enable_compilation_cache
from ivid.config import find_cascade, parse_flags
from ivid.spec.errors import nearest

if TYPE_CHECKING:
  import numpy as np

  from ivid.moving_shapes.grammar import Attributes
  from ivid.evaluate.prompts import Prompt
  from ivid.evaluate.upsampling import Comparison
  from ivid.sample.cascades import Cascade
  from ivid.spec.clip import ClipShape
  from ivid.spec.stage import StageSpec

METRICS = ADHERENCE, UPSAMPLING = ("adherence", "upsampling")
OVERRIDES = ("steps", "sampler", "guidance", "threshold", "aug_snr")
DEFAULT_CASCADE = "nano"
BATCH = 8  # clips sampled together


def define_flags(values: flags.FlagValues) -> None:
  f = dict(flag_values=values)
  flags.DEFINE_list("metrics", [ADHERENCE], f"What to measure: {', '.join(METRICS)}.", **f)
  flags.DEFINE_alias("metric", "metrics", **f)
  flags.DEFINE_bool("images", False, "With adherence: single images of the base stage, of prompts without motion.", **f)
  flags.DEFINE_string("clips", "", "Folder of clips to judge instead of sampling a cascade; with upsampling: of ground truth.", **f)
  flags.DEFINE_string("prompts_file", "", "Text file with a prompt a line, in the grammar of moving_shapes.", **f)
  flags.DEFINE_integer("prompts", 25, "Prompts of each seeded group: one and two objects, drawn in training and held out from it.", **f)
  flags.DEFINE_list("groups", [], "Which of the seeded groups (default: all): one, two, one_held_out, two_held_out.", **f)
  flags.DEFINE_integer("seed", 0, "Of the prompts and of the samples.", **f)
  flags.DEFINE_string("cascade", "", f"Folder of a cascade, or the name of one that ships (default: {DEFAULT_CASCADE}).", **f)
  flags.DEFINE_string("start_stage", "", "With upsampling: the stage whose input the ground truth is shrunk to (default: the second).", **f)
  flags.DEFINE_string("stop_stage", "", "Stage whose clips are judged (default: the last trained one of the chain).", **f)
  for name in OVERRIDES:
    flags.DEFINE_string(name, "", "As in ivid sample.", **f)
  flags.DEFINE_integer("batch_size", BATCH, "Clips or images sampled together.", **f)
  flags.DEFINE_string("out", "eval", "Folder of the results.", **f)


def main(argv: Sequence[str]) -> None:
  values = parse_flags(argv, define_flags)
  _check(values)
  for metric in dict.fromkeys(values.metrics):
    {ADHERENCE: _adherence, UPSAMPLING: _upsampling}[metric](values)


def _check(values: flags.FlagValues) -> None:
  """Refuses flags that do not go together before anything is read or computed."""
  if not values.metrics:
    raise ValueError(f"--metrics is empty: expected one of {', '.join(METRICS)}, or several with commas")
  for metric in values.metrics:
    if metric not in METRICS:
      raise ValueError(f"metric {metric!r}: {nearest(metric, METRICS)}")
  if values.batch_size < 1:
    raise ValueError(f"batch_size={values.batch_size}: expected 1 or more")
  if values.images and UPSAMPLING in values.metrics:
    raise ValueError("--images with metric upsampling: expected --metrics=adherence")
  if values.images and values.clips:
    raise ValueError(f"--images beside --clips={values.clips}: expected --cascade, whose base stage makes the images")
  if UPSAMPLING in values.metrics:
    return
  if values.start_stage:
    raise ValueError(f"--start_stage={values.start_stage} with metric adherence: expected --metrics=upsampling, or --stop_stage alone")
  if values.clips and (values.cascade or values.stop_stage):
    raise ValueError("--clips beside --cascade or --stop_stage: expected clips to judge, or a cascade to sample")


def _adherence(values: flags.FlagValues) -> None:
  """Judges a folder's clips, or a cascade's clips or images of prompts; prints one row per group of prompts."""
  from ivid.evaluate import prompts, report

  given = prompts.read_prompts(values.prompts_file, images=values.images) if values.prompts_file else None
  if values.clips:
    pairs, made_by = _from_folder(values.clips, given)
  else:
    groups = tuple(values.groups) or prompts.GROUPS
    chosen = given or prompts.seeded_prompts(values.seed, values.prompts, groups, images=values.images)
    pairs, made_by = _from_cascade(values, chosen)
  results = [report.judge(prompt, clip) for prompt, clip in pairs]
  out = pathlib.Path(values.out)
  print(report.format_summary(report.write_report(out, results, made_by)))
  print(out / report.RESULTS, file=sys.stderr)


def _from_folder(folder: str, given: list[Prompt] | None) -> tuple[Iterator[tuple[Prompt, np.ndarray]], dict[str, Any]]:
  from ivid.moving_shapes.observer import check
  from ivid.evaluate.folder import find_clips
  from ivid.media.clips import read_clip
  from ivid.train.progress import Progress

  found = find_clips(folder, given)

  def clips() -> Iterator[tuple[Prompt, np.ndarray]]:
    with Progress(total=len(found)) as progress:
      for done, (prompt, path) in enumerate(found, start=1):
        frames, _ = read_clip(path)
        try:
          check(frames)
        except ValueError as error:
          raise ValueError(f"{path}: {error}") from None
        yield prompt, frames
        progress.update(done)

  return clips(), dict(clips=folder)


def _from_cascade(values: flags.FlagValues, chosen: list[Prompt]) -> tuple[Iterator[tuple[Prompt, np.ndarray]], dict[str, Any]]:
  from ivid.sample.runner import run_cascade
  from ivid.sample.keys import Sample

  cascade, stages, made_by = _stages(values, ADHERENCE)
  if values.images:
    stages = (_one_image(stages),)
  samples = [Sample(prompt.text, values.seed, 0) for prompt in chosen]

  def clips() -> Iterator[tuple[Prompt, np.ndarray]]:
    for clip in run_cascade(cascade, stages, samples, batch_size=values.batch_size):
      if clip.stage is stages[-1]:
        yield chosen[clip.index], clip.frames

  return clips(), made_by


def _one_image(stages: Sequence[StageSpec]) -> StageSpec:
  """The base stage at one frame, which is a picture and no video (Stage.makes_pictures).

  Raises:
    ValueError: more stages, or images too small to be judged.
  """
  import numpy as np

  from ivid.moving_shapes.image_observer import check_image
  from ivid.spec.run import TrainSpec
  from ivid.train.view import training_view

  if len(stages) > 1:
    raise ValueError(f"--images with --stop_stage={stages[-1].name}: expected {stages[0].name}, the base, alone")
  view = training_view(stages[0], TrainSpec(frames=1))
  check_image(np.zeros(view.output.array[1:], np.uint8))
  return view


def _stages(values: flags.FlagValues, metric: str) -> tuple[Cascade, tuple[StageSpec, ...], dict[str, Any]]:
  """The cascade, its stages as they are to be sampled, and a record of both."""
  from ivid.sample import plan
  from ivid.spec import convert

  enable_compilation_cache()
  cascade = find_cascade(values.cascade or DEFAULT_CASCADE)
  start = values.start_stage
  stop = values.stop_stage or (cascade.spec.stage_names[0] if values.images else "")
  if metric == ADHERENCE:
    start = ""
  elif not start:
    start = cascade.spec.stage_names[min(1, len(cascade.spec.stages) - 1)]
  overrides = plan.Overrides(**{name: values[name].value for name in OVERRIDES})
  stages = plan.plan_stages(cascade, start=start, stop=stop, overrides=overrides)
  record = [
    dict(
      name=spec.name,
      trained_steps=cascade.check(spec.name).step,
      sampling=convert.to_dict(spec.sampling),
      aug_snr=spec.lowres and spec.lowres.aug_snr,
    )
    for spec in stages
  ]
  return cascade, stages, dict(cascade=cascade.spec.name, seed=values.seed, stages=record)


def _upsampling(values: flags.FlagValues) -> None:
  """Ground truth, drawn or a user's, through the stages; prints a row a stage."""
  from ivid.evaluate import upsampling

  cascade, stages, made_by = _stages(values, UPSAMPLING)
  if stages[0].lowres is None:
    raise ValueError(f"start_stage={stages[0].name} has no input: expected one of {', '.join(cascade.spec.stage_names[1:])}")
  whole = cascade.spec.stages[-1].output  # stages before may squeeze what it shows
  aspect = whole.width / whole.height
  clips = _real_clips(values.clips, aspect) if values.clips else _drawn_clips(values, aspect)
  comparisons = [made for clip in clips for made in _through(values, cascade, stages, clip)]
  out = pathlib.Path(values.out)
  print(upsampling.format_rows(upsampling.write_report(out, comparisons, made_by | dict(clips=values.clips or "moving_shapes"))))
  print(out / upsampling.RESULTS, file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class _Truth:
  """Ground truth at any size: its caption, what that says (None for a user's clip), and its pictures uint8 at a size and rate."""

  caption: str
  said: Attributes | None
  at: Callable[[ClipShape], np.ndarray]


def _drawn_clips(values: flags.FlagValues, aspect: float) -> Iterator[_Truth]:
  import numpy as np

  from ivid.moving_shapes.draw import draw, to_uint8
  from ivid.moving_shapes.scene import make_scene
  from ivid.evaluate import prompts

  for n, prompt in enumerate(prompts.seeded_prompts(values.seed, values.prompts, tuple(values.groups) or prompts.GROUPS)):

    def at(size: ClipShape, n: int = n, prompt: Prompt = prompt) -> np.ndarray:
      scene = make_scene(values.seed, n, aspect=aspect, said=prompt.attributes)
      return to_uint8(draw(scene, times=np.arange(size.frames) / size.fps, height=size.height, width=size.width))

    yield _Truth(prompt.text, prompt.attributes, at)


def _real_clips(folder: str, aspect: float) -> Iterator[_Truth]:
  from ivid.data.clips import clip_files
  from ivid.sample.entry import read_entry

  for path in clip_files(pathlib.Path(folder)):
    print(path, file=sys.stderr)
    yield _Truth("", None, lambda size, path=path: read_entry(path, size, aspect=aspect).frames)


def _through(values: flags.FlagValues, cascade: Cascade, stages: Sequence[StageSpec], truth: _Truth) -> Iterator[Comparison]:
  """The clip's comparisons at every stage."""
  from ivid.evaluate.upsampling import compare, shrunk
  from ivid.sample import plan
  from ivid.sample.runner import run_cascade
  from ivid.sample.keys import Sample

  first = truth.at(stages[0].output)
  k = stages[0].time_factor
  if len(first) < k:
    raise ValueError(f"a clip of {len(first)} frames at the output of stage {stages[0].name}: expected {k} or more")
  small = shrunk(first[: len(first) // k * k], stages[0])
  planned = plan.plan_length(stages, len(small))
  for clip in run_cascade(cascade, planned, [Sample(truth.caption, values.seed, 0)], first_input=small, quiet=True):
    real = truth.at(clip.stage.output)[: len(clip.frames)]
    yield compare(clip.stage.name, clip.frames, real, small, truth.said)
