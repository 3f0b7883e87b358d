"""Measure what clips show: adherence to their prompts, from the pixels alone.

ivid evaluate --metric=adherence --cascade=nano --stop_stage=ssr1 --prompts=25 --out=eval
ivid evaluate --metric=adherence --clips=out --out=eval
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from ivid.bin.cache import enable_compilation_cache
from ivid.bin.config import find_cascade, parse_flags
from ivid.spec.errors import nearest

if TYPE_CHECKING:
  import numpy as np

  from ivid.evaluate.prompts import Prompt

METRICS = ("adherence",)
OVERRIDES = ("steps", "sampler", "guidance", "threshold", "aug_snr")
DEFAULT_CASCADE = "nano"
BATCH = 8  # clips sampled together


def define_flags(values: flags.FlagValues) -> None:
  f = dict(flag_values=values)
  flags.DEFINE_string("metric", METRICS[0], f"What to measure: {', '.join(METRICS)}.", **f)
  flags.DEFINE_string("clips", "", "Folder of clips to judge instead of sampling a cascade.", **f)
  flags.DEFINE_string("prompts_file", "", "Text file with a prompt a line, in the grammar of moving_shapes.", **f)
  flags.DEFINE_integer("prompts", 25, "Prompts of each seeded group: one and two objects, drawn in training and held out from it.", **f)
  flags.DEFINE_list("groups", [], "Which of the seeded groups (default: all): one, two, one_held_out, two_held_out.", **f)
  flags.DEFINE_integer("seed", 0, "Of the prompts and of the samples.", **f)
  flags.DEFINE_string("cascade", "", f"Folder of a cascade, or the name of one that ships (default: {DEFAULT_CASCADE}).", **f)
  flags.DEFINE_string("stop_stage", "", "Stage whose clips are judged (default: the last trained one of the chain).", **f)
  for name in OVERRIDES:
    flags.DEFINE_string(name, "", "As in ivid sample.", **f)
  flags.DEFINE_integer("batch_size", BATCH, "Clips sampled together.", **f)
  flags.DEFINE_string("out", "eval", "Folder of the results.", **f)


def main(argv: Sequence[str]) -> None:
  values = parse_flags(argv, define_flags)
  if values.metric not in METRICS:
    raise ValueError(f"metric {values.metric!r}: {nearest(values.metric, METRICS)}")
  if values.batch_size < 1:
    raise ValueError(f"batch_size={values.batch_size}: expected 1 or more")
  if values.clips and (values.cascade or values.stop_stage):
    raise ValueError("--clips beside --cascade or --stop_stage: expected clips to judge, or a cascade to sample")
  from ivid.evaluate import prompts, report

  given = prompts.read_prompts(values.prompts_file) if values.prompts_file else None
  if values.clips:
    pairs, made_by = _from_folder(values.clips, given)
  else:
    chosen = given or prompts.seeded_prompts(values.seed, values.prompts, tuple(values.groups) or prompts.GROUPS)
    pairs, made_by = _from_cascade(values, chosen)
  results = [report.judge(prompt, clip) for prompt, clip in pairs]
  out = pathlib.Path(values.out)
  print(report.format_summary(report.write_report(out, results, made_by)))
  print(out / report.RESULTS, file=sys.stderr)


def _from_folder(folder: str, given: list[Prompt] | None) -> tuple[Iterator[tuple[Prompt, np.ndarray]], dict[str, Any]]:
  from ivid.evaluate.adherence import check
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
  from ivid.sample import plan
  from ivid.sample.cascade import run_cascade
  from ivid.sample.keys import Sample
  from ivid.spec import convert

  enable_compilation_cache()
  cascade = find_cascade(values.cascade or DEFAULT_CASCADE)
  stages = plan.plan_stages(cascade, stop=values.stop_stage, overrides=plan.Overrides(**{name: values[name].value for name in OVERRIDES}))
  samples = [Sample(prompt.text, values.seed, 0) for prompt in chosen]
  made_by = dict(
    cascade=cascade.spec.name,
    seed=values.seed,
    stages=[dict(name=spec.name, trained_steps=cascade.check(spec.name).step, sampling=convert.to_dict(spec.sampling)) for spec in stages],
  )

  def clips() -> Iterator[tuple[Prompt, np.ndarray]]:
    for clip in run_cascade(cascade, stages, samples, batch_size=values.batch_size):
      if clip.stage is stages[-1]:
        yield chosen[clip.index], clip.frames

  return clips(), made_by
