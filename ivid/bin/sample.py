"""Samples clips from a cascade: prompts in, an .mp4 and a .json for each out.

ivid sample --prompt="a large red circle moves left on a black background"
ivid sample --cascade=DIR --prompts_file=F --seed=1 --num_samples=4 --steps=base=64,ssr1=16 --out=DIR
ivid sample --input=clip.mp4 --start_stage=ssr2 --caption="a large red circle moves left on a black background"
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from ivid.runs.cache import enable_compilation_cache
from ivid.config import find_cascade

if TYPE_CHECKING:  # imported where they are used, so that a wrong flag is answered at once
  import numpy as np

  from ivid.sample.cascades import Cascade
  from ivid.sample.runner import Clip
  from ivid.sample.keys import Sample
  from ivid.sample.outputs import Outputs
  from ivid.spec.stage import StageSpec

DEFAULT_CASCADE = "nano"
MEMORY_SHARE = 0.6  # of the machine's memory that a clip and what is kept of it may take
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
OVERRIDES = ("steps", "sampler", "guidance", "threshold", "aug_snr")
# What the metadata decides; given beside --from_metadata they would contradict it.
DECIDED = (
  "prompt",
  "prompts_file",
  "seed",
  "num_samples",
  "first_sample",
  "caption",
  "start_stage",
  "stop_stage",
  "batch_size",
  "tile",
  *OVERRIDES,
)


def define_flags(values: flags.FlagValues) -> None:
  """Adds the flags of `ivid sample`."""
  f = dict(flag_values=values)
  flags.DEFINE_multi_string("prompt", [], "What the clip shows; may be given several times.", **f)
  flags.DEFINE_string("prompts_file", "", "Text file (UTF-8) with a prompt a line; blank lines are skipped.", **f)
  flags.DEFINE_string("cascade", "", f"Folder of a cascade, or the name of one that ships (default: {DEFAULT_CASCADE}).", **f)
  flags.DEFINE_integer("seed", 0, "A clip depends on seed, prompt and sample number, on nothing else that is in the run.", **f)
  flags.DEFINE_integer("num_samples", 1, "Clips of each prompt.", **f)
  flags.DEFINE_integer("first_sample", 0, "Number of the first of them; samples n to n + k are the same in every run.", **f)
  flags.DEFINE_string("steps", "", "Sampling steps: 32 for all stages, or base=64,ssr1=16; default: the cascade's.", **f)
  flags.DEFINE_string("sampler", "", "ddim, ancestral or dpmpp_2m; by stage as --steps.", **f)
  flags.DEFINE_string("guidance", "", "Weight w of (1 + w) x_cond - w x_uncond; 15:1 oscillates; by stage as --steps.", **f)
  flags.DEFINE_string("threshold", "", "none, static or dynamic; by stage as --steps.", **f)
  flags.DEFINE_string("aug_snr", "", "Power ratio of the noise augmentation of a stage's input, such as 3 or 5; by stage as --steps.", **f)
  flags.DEFINE_string("start_stage", "", "First stage to run; one that has an input takes it from --input.", **f)
  flags.DEFINE_string("stop_stage", "", "Last stage to run (default: the last trained one of the chain).", **f)
  flags.DEFINE_string("input", "", "Clip that --start_stage starts from, of any size, rate and length: resampled, cut and resized.", **f)
  flags.DEFINE_string("caption", "", "What --input shows; may be left out.", **f)
  flags.DEFINE_string("out", "out", "Folder, or a file for one clip. No file is lost: a name that is taken gets a number.", **f)
  flags.DEFINE_string(
    "format", "", "mp4, webm, gif or png (all frames in one picture, without loss); default: that of --out, else mp4.", **f
  )
  flags.DEFINE_bool("overwrite", False, "Replace files that are in the way instead of numbering the new ones.", **f)
  flags.DEFINE_bool("save_stages", False, "Save every stage's clip; with --format=png going on from one is exact.", **f)
  flags.DEFINE_bool("contact_sheet", False, "Also save one picture with frames of all clips.", **f)
  flags.DEFINE_string("from_metadata", "", "Make a clip again, bit for bit on the same machine: its .json, or the clip itself.", **f)
  flags.DEFINE_string(
    "tile", "", "What is computed at once: 32x768x1280 (0: the whole axis) or whole; by stage as --steps; default: by memory.", **f
  )
  flags.DEFINE_integer("batch_size", 0, "Clips computed together; 0: one a device.", **f)


@dataclasses.dataclass(frozen=True)
class Request:
  """What to sample, checked.

  Attributes:
    cascade: the opened folder.
    stages: as they are to be sampled.
    samples: the clips to draw.
    batch_size: of the run.
    keep: indices of `samples` that are saved.
    tiles: by stage (ivid.sample.plan.plan_tiles).
    first_input: [t, h, w, 3] uint8 that the first stage starts from, or None.
    source: its file, SHA-256 and what was changed to make it fit.
  """

  cascade: Cascade
  stages: tuple[StageSpec, ...]
  samples: tuple[Sample, ...]
  batch_size: int
  keep: frozenset[int]
  tiles: dict[str, tuple[int, ...]]
  first_input: np.ndarray | None = None
  source: dict[str, Any] | None = None


def main(argv: Sequence[str]) -> int:
  """Samples as the flags in argv (program name first) say. Wrong input is a ValueError or flags.Error before any work is done."""
  values = flags.FlagValues()
  define_flags(values)
  extra = values(list(argv))[1:]
  if extra:
    raise ValueError(f"unexpected argument {extra[0]!r}: expected flags alone, such as --prompt={extra[0]!r}")
  with _plain_warnings():
    _check_numbers(values)
    prompts = [] if values.from_metadata else _prompts(values)
    enable_compilation_cache()
    from ivid.sample.outputs import Outputs

    request = _repeat_request(values) if values.from_metadata else _request(values, prompts)
    outputs = Outputs(values.out, values.format, clips=len(request.keep), overwrite=values.overwrite)
    outputs.check(list(request.stages) if values.save_stages else [request.stages[-1]])
    return _run(request, outputs, values)


def _check_numbers(values: flags.FlagValues) -> None:
  if values.num_samples < 1:
    raise ValueError(f"num_samples={values.num_samples}: expected 1 or more")
  if values.first_sample < 0:
    raise ValueError(f"first_sample={values.first_sample}: expected 0 or more")
  if values.batch_size < 0:
    raise ValueError(f"batch_size={values.batch_size}: expected 1 or more, or 0 for one clip a device")
  if values.from_metadata:
    given = [name for name in DECIDED if values[name].present]
    if given:
      raise ValueError(f"--{given[0]} beside --from_metadata: the metadata decides it")


def _prompts(values: flags.FlagValues) -> list[str]:
  """Prompts of the flags and the file, each once; an empty one, no text, for an input clip of which nothing is said."""
  prompts = list(values.prompt)
  if values.caption:
    if not values.input:
      raise ValueError(f"--caption={values.caption!r} says what --input shows: expected --prompt, or --input too")
    prompts.append(values.caption)
  for prompt in prompts:
    if not prompt.strip():
      raise ValueError(f"--prompt={prompt!r} is empty: expected a description of the clip")
  if values.prompts_file:
    prompts += _read_prompts(pathlib.Path(values.prompts_file))
  if not prompts and values.input:
    return [""]
  if not prompts:
    raise ValueError("no prompt: expected --prompt='what the clip shows', or --prompts_file")
  return list(dict.fromkeys(prompts))


def _read_prompts(path: pathlib.Path) -> list[str]:
  if not path.is_file():
    raise ValueError(f"no prompts file at {path}")
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
  prompts = [line.strip() for line in lines if line.strip()]
  if not prompts:
    raise ValueError(f"{path} holds no prompt: expected one a line")
  return prompts


def _request(values: flags.FlagValues, prompts: Sequence[str]) -> Request:
  from ivid.sample import plan
  from ivid.sample.keys import Sample

  cascade = find_cascade(values.cascade or DEFAULT_CASCADE)
  overrides = plan.Overrides(**{name: values[name].value for name in OVERRIDES})
  stages = plan.plan_stages(cascade, start=values.start_stage, stop=values.stop_stage, overrides=overrides)
  last = stages[-1].name
  if not values.stop_stage and last != cascade.spec.stage_names[-1]:
    print(f"stopping at {last}, the last trained stage of cascade {cascade.spec.name}", file=sys.stderr)
  stages, first_input, source = _enter(cascade, stages, values.input)
  tiles = plan.plan_tiles(stages, values.tile)
  numbers = range(values.first_sample, values.first_sample + values.num_samples)
  samples = tuple(Sample(prompt, values.seed, number) for prompt in prompts for number in numbers)
  return Request(cascade, stages, samples, values.batch_size, frozenset(range(len(samples))), tiles, first_input, source)


def _repeat_request(values: flags.FlagValues) -> Request:
  from ivid.sample import outputs, repeat

  metadata = outputs.load_metadata(values.from_metadata)
  cascade = find_cascade(values.cascade or metadata["cascade"]["name"])
  source = metadata.get("input") or {}
  stages, first_input, found = _enter(cascade, repeat.repeated_stages(cascade, metadata), values.input or source.get("file", ""))
  if found and found["sha256"] != source.get("sha256"):
    raise ValueError(f"{found['file']} is not the clip that {values.from_metadata} started from: its SHA-256 is {found['sha256'][:12]}")
  sample, size, row = repeat.repeated_sample(metadata)
  tiles = repeat.repeated_tiles(metadata)
  # The batch is filled with copies: a clip's last bits may depend on the batch's size and its row there, not on the other rows.
  return Request(cascade, stages, (sample,) * size, size, frozenset([row]), tiles, first_input, source or None)


def _enter(
  cascade: Cascade, stages: tuple[StageSpec, ...], name: str
) -> tuple[tuple[StageSpec, ...], np.ndarray | None, dict[str, Any] | None]:
  """The stages for the length of the clip `name`, that clip as the first of them takes it, and where it comes from."""
  if stages[0].lowres is None:
    if name:
      raise ValueError(f"--input={name}: stage {stages[0].name} starts from noise alone; expected --start_stage too")
    return stages, None, None
  want = stages[0].lowres.input
  if not name:
    raise ValueError(f"--start_stage={stages[0].name} needs --input=clip; it takes {want}")
  from ivid.sample import plan
  from ivid.sample.entry import read_entry

  whole = cascade.spec.stages[-1].output  # stages before may squeeze what it shows
  aspect = whole.width / whole.height
  memory = MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  entry = read_entry(name, want, aspect=aspect, max_seconds=plan.longest_seconds(stages, memory))
  for change in entry.changes:
    print(f"--input={name}: {change}", file=sys.stderr)
  source = {"file": name, "sha256": _sha256(name), "changes": list(entry.changes)}
  return plan.plan_length(stages, len(entry.frames)), entry.frames, source


def _sha256(name: str) -> str:
  with open(name, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _run(request: Request, outputs: Outputs, values: flags.FlagValues) -> int:
  """Samples and saves; Ctrl-C leaves the clips of finished stages and says how to go on from them. Returns the exit status."""
  from ivid.media.sheet import contact_sheet
  from ivid.sample.runner import run_cascade

  stages, shown = list(request.stages), []
  before: list[Clip] = []  # of the stage before the one that runs
  now: list[Clip] = []
  saved: set[int] = set()
  clips = run_cascade(
    request.cascade,
    stages,
    request.samples,
    batch_size=request.batch_size,
    first_input=request.first_input,
    tiles=request.tiles,
  )
  try:
    for clip in clips:
      last = clip.stage is stages[-1]
      if now and now[0].stage is not clip.stage:
        before, now = now, []
      if not last:
        now.append(clip)
      if clip.index not in request.keep or not (last or values.save_stages):
        continue
      print(_save(request, outputs, clip, "" if last else clip.stage.name), flush=True)
      if last:
        saved.add(clip.index)
      if last and values.contact_sheet:
        sample = request.samples[clip.index]
        shown.append((clip.frames, f"{sample.prompt} (seed {sample.seed}, sample {sample.number})"))
  except KeyboardInterrupt:
    finished = now if len(now) == len(request.samples) else before
    _say_how_to_go_on(request, outputs, values, [clip for clip in finished if clip.index in request.keep - saved])
    return INTERRUPTED
  if shown:
    frames, captions = zip(*shown, strict=True)
    print(outputs.save_sheet("contact_sheet", contact_sheet(frames, captions=captions)))
  return 0


def _save(request: Request, outputs: Outputs, clip: Clip, stage: str, *, suffix: str = "") -> pathlib.Path:
  from ivid.sample.outputs import clip_metadata

  sample, stages = request.samples[clip.index], list(request.stages)
  ran = stages[: stages.index(clip.stage) + 1]
  metadata = clip_metadata(request.cascade, ran, sample, clip, tiles=request.tiles, source=request.source)
  return outputs.save(outputs.stem(sample, stage), clip.frames, clip.stage.output.fps, metadata, suffix=suffix)


def _say_how_to_go_on(request: Request, outputs: Outputs, values: flags.FlagValues, clips: list[Clip]) -> None:
  """Saves the clips of the last finished stage without loss, and says the commands that take them up."""
  if not clips:
    print("interrupted; there is no finished stage to go on from, or every clip is saved", file=sys.stderr)
    return
  names = [spec.name for spec in request.stages]
  left = names[names.index(clips[0].stage.name) + 1 :]
  kept = {name: _left_of(values[name].value, left) for name in (*OVERRIDES, "tile")}
  kept |= {name: values[name].value for name in ("out", "format") if values[name].present}
  print(f"interrupted in stage {left[0]}; the stage before it is saved without loss. To go on:", file=sys.stderr)
  for clip in clips:
    sample = request.samples[clip.index]
    path = _save(request, outputs, clip, clip.stage.name, suffix="png")
    options = dict(
      input=path,
      caption=sample.prompt,
      start_stage=left[0],
      stop_stage=left[-1],
      seed=sample.seed,
      first_sample=sample.number,
      cascade=request.cascade.folder,
    )
    words = [f"--{name}={value}" for name, value in (options | kept).items() if value != ""]
    print("  ivid sample " + " ".join(map(shlex.quote, words)), file=sys.stderr)


def _left_of(text: str, stages: list[str]) -> str:
  """Of `16` or `base=64,ssr1=16` what concerns those stages."""
  parts = [part.strip() for part in text.split(",")]
  return ",".join(part for part in parts if "=" not in part or part.partition("=")[0] in stages)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
  """Warnings as one line each, without the place in the code."""
  shown = warnings.showwarning
  warnings.showwarning = lambda message, *_, **__: print(f"ivid sample: warning: {message}", file=sys.stderr)
  try:
    yield
  finally:
    warnings.showwarning = shown
