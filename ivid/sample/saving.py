"""The clips of a request as files, as they are finished."""

from __future__ import annotations

import dataclasses
import pathlib
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
  """Ctrl-C while sampling; `clips` are those of the last finished stage that are not saved yet, as far as they are wanted."""

  def __init__(self, clips: list[Clip]):
    super().__init__()
    self.clips = clips


def save_clips(request: Request, outputs: Outputs, *, every_stage: bool = False, sheet: bool = False) -> Iterator[pathlib.Path]:
  """Samples, saves and yields the names of the files.

  Args:
    every_stage: whether to save what each stage makes, not the last one alone.
    sheet: whether to save one picture with frames of all clips as well.

  Raises:
    Interrupted: on Ctrl-C.
  """
  stages, shown = request.stages, []
  before: list[Clip] = []  # of the stage before the one that runs
  now: list[Clip] = []
  saved: set[int] = set()
  try:
    for clip in request.run():
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
    finished = now if len(now) == len(request.samples) else before
    raise Interrupted([clip for clip in finished if clip.index in request.keep - saved]) from None
  if shown:
    frames, captions = zip(*shown, strict=True)
    yield outputs.save_sheet("contact_sheet", contact_sheet(frames, captions=captions))


def flags_to_go_on(request: Request, outputs: Outputs, clip: Clip, given: Mapping[str, str]) -> dict[str, Any]:
  """Saves a clip of a stage without loss, and returns the flags of `ivid sample` that take it up, to the same end.

  Args:
    given: flags of the run that still count, options by stage (ivid.sample.option_texts) among them.
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
    mesh=mesh_text(dataclasses.replace(clip.mesh, data=1, fsdp=1)),  # of one clip: there are no rows to share
  )
  found |= {name: left_of(text, left) if name in READERS else text for name, text in given.items()}
  return {name: value for name, value in found.items() if value != ""}


def save_clip(request: Request, outputs: Outputs, clip: Clip, *, lossless: bool = False) -> pathlib.Path:
  """Saves one clip and its JSON, the stage in its name if it is not the last; returns the clip's name."""
  sample, last = request.samples[clip.index], clip.stage is request.stages[-1]
  stem = outputs.stem(sample, "" if last else clip.stage.name)
  return outputs.save(stem, clip.frames, clip.stage.output.fps, request.metadata(clip), suffix=LOSSLESS if lossless else "")
