"""Saves the clips of a request as files as soon as they are finished."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ivid.media.sheet import contact_sheet
from ivid.sample.meshes import mesh_text
from ivid.sample.option_texts import READERS, left_of
from ivid.sample.outputs import Outputs
from ivid.sample.requests import Request
from ivid.sample.runner import Clip

LOSSLESS = "png"


class Interrupted(KeyboardInterrupt):
  """Ctrl-C while sampling.

  Attributes:
    clips: wanted clips of the last finished stage that are not saved yet.
    left: number of clips that were not started.
    resumes: whether running the same command again continues.
  """

  def __init__(self, clips: list[Clip], *, left: int = 0, resumes: bool = False):
    super().__init__()
    self.clips = clips
    self.left = left
    self.resumes = resumes


def save_clips(request: Request, outputs: Outputs, *, every_stage: bool = False, sheet: bool = False) -> Iterator[pathlib.Path]:
  """Samples, saves and yields the names of the files.

  Args:
    every_stage: whether to save the clips of every stage, and not only those of the last.
    sheet: whether to save one picture with frames of all clips as well.

  Raises:
    Interrupted: on Ctrl-C.
  """
  stages, shown = request.stages, []
  groups = request.groups()
  before: list[Clip] = []  # clips of the stage before the running one
  now: list[Clip] = []
  saved: set[int] = set()
  for number, group in enumerate(groups):
    before, now = [], []
    if len(groups) > 1:
      print(f"group {number + 1} of {len(groups)}: {len(group)} clips", file=sys.stderr, flush=True)
    try:
      for clip in request.run_group(group):
        last = clip.stage is stages[-1]
        if now and now[0].stage is not clip.stage:
          before, now = now, []
        if not last:
          now.append(clip)
        if clip.index not in request.keep or not (last or every_stage):
          continue
        yield save_clip(request, outputs, clip)
        if last:
          saved.add(clip.index)
        if last and sheet:
          sample = request.samples[clip.index]
          shown.append((clip.frames, f"{sample.prompt} (seed {sample.seed}, sample {sample.number})"))
    except KeyboardInterrupt:
      finished = now if len(now) == len(group) else before
      left = request.keep.intersection(itertools.chain.from_iterable(groups[number + 1 :]))
      raise Interrupted([clip for clip in finished if clip.index in request.keep - saved], left=len(left)) from None
  if shown:
    frames, captions = zip(*shown, strict=True)
    yield outputs.save_sheet("contact_sheet", contact_sheet(frames, captions=captions))


def how_to_go_on(request: Request, outputs: Outputs, interrupted: Interrupted, given: Mapping[str, str]) -> list[str]:
  """Saves the clips of the last finished stage without loss, and returns lines with commands that continue them (`flags_to_go_on`)."""
  if interrupted.resumes:
    return ["interrupted; the same command makes what is missing"]
  left = [f"{interrupted.left} clips were not begun: their prompts have to be given again"] if interrupted.left else []
  if not interrupted.clips:
    return ["interrupted; there is no finished stage to go on from, or every clip is saved", *left]
  after = request.stage_after(interrupted.clips[0])
  commands = [flags_to_go_on(request, outputs, clip, given) for clip in interrupted.clips]
  lines = ["  ivid sample " + " ".join(shlex.quote(f"--{name}={value}") for name, value in flags.items()) for flags in commands]
  return [*left, f"interrupted in stage {after}; the stage before it is saved without loss. To go on:", *lines]


def flags_to_go_on(request: Request, outputs: Outputs, clip: Clip, given: Mapping[str, str]) -> dict[str, Any]:
  """Saves a clip of a stage without loss, and returns the flags of `ivid sample` that continue it to the same result.

  Args:
    given: flags of the run that still apply, including options per stage (ivid.sample.option_texts).
  """
  sample, first = request.samples[clip.index], request.stage_after(clip)
  names = [spec.name for spec in request.stages]
  left = names[names.index(first) :]
  found = dict(
    input=save_clip(request, outputs, clip, lossless=True),
    caption=sample.prompt,
    start_stage=first,
    stop_stage=left[-1],
    seed=sample.seed,
    first_sample=sample.number,
    cascade=request.cascade.folder,
    mesh=mesh_text(dataclasses.replace(clip.mesh, data=1, fsdp=1)),  # one clip has no rows to share
  )
  found |= {name: left_of(text, left) if name in READERS else text for name, text in given.items()}
  return {name: value for name, value in found.items() if value != ""}


def save_clip(request: Request, outputs: Outputs, clip: Clip, *, lossless: bool = False) -> pathlib.Path:
  """Saves one clip and its JSON, with the stage in its name unless it is the last; returns the clip's name."""
  sample, last = request.samples[clip.index], clip.stage is request.stages[-1]
  stem = outputs.stem(sample, "" if last else clip.stage.name)
  return outputs.save(stem, clip.frames, clip.stage.output.fps, request.metadata(clip), suffix=LOSSLESS if lossless else "")
