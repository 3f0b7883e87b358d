"""The format of every JSON file that ivid writes, and how files of older formats become today's.

All of them are objects with `format` at the top; a list lies under `rows`. metrics.jsonl alone has none: it is a log, whose lines programs
of other people read too, and a run goes on in the file of the ivid before. The header of a safetensors file is safetensors' own.

Format 0 is every file without a `format`. It has `diffusion.resolution_shift`, true or false, where format 1 has the number
`diffusion.logsnr_shift`. Format 2 has the `mesh` in a clip's metadata, where those of older formats do not say on which devices it was
made, and `negative_prompt` and `given`, which are no text and no given frames where they are missing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ivid.spec.clip import ClipShape, resolution_logsnr_shift
from ivid.spec.errors import UserError, nearest

FORMAT = 2
KEY = "format"  # at the top of every file
# Keys that a config of a user may still have, and what took their place.
RENAMED = {"resolution_shift": "logsnr_shift, a number: 0.0 for False, and for True what ivid.spec.clip.resolution_logsnr_shift gives"}


class Kind(enum.Enum):
  """What a file is, and so where in it the specs of stages lie."""

  CASCADE = "cascade"  # cascade.json: `cascade.stages`
  STAGE = "stage"  # STAGE/spec.json of a cascade: `spec`
  CHECKPOINT = "checkpoint"  # a checkpoint's meta: `stage`
  CLIP = "clip"  # a clip's metadata: no whole spec of a stage
  TEXT = "text"  # a text encoder's spec.json: no stage
  EMBEDDINGS = "embeddings"  # key.json of stored embeddings: no stage
  DATA = "data"  # what a checkpoint has beside its arrays, such as its place in the data: no stage
  REPORT = "report"  # figures: no stage
  RUN = "run"  # config.json of a work folder: `cascade.stages`
  PREPARED = "prepared"  # plan.json of a prepared data set: no stage
  RETRIEVAL = "retrieval"  # spec.json of a retrieval network: no stage
  SHARE = "share"  # run.json of `ivid sample --process`: no whole spec of a stage


def stamped(mapping: Mapping[str, Any]) -> dict[str, Any]:
  """The contents of a file with today's format at the top."""
  return {KEY: FORMAT, **mapping}


def migrate(mapping: Mapping[str, Any], kind: Kind, *, source: Any) -> dict[str, Any]:
  """What a file says, as a file of today's format would say it, without its `format`; `mapping` is left as it is.

  Args:
    source: the file's name, for errors.

  Raises:
    UserError: no mapping; a format that is newer than FORMAT, or no number; a value that the file's own format does not have.
  """
  if not isinstance(mapping, Mapping):
    raise UserError(f"{source} holds a {type(mapping).__name__}: expected a JSON object, as ivid writes it")
  found = mapping.get(KEY, 0)
  if isinstance(found, bool) or not isinstance(found, int) or found < 0:
    raise UserError(f"{source}: format={found!r}: expected a whole number from 0 to {FORMAT}")
  if found > FORMAT:
    raise UserError(f"{source} was written by a newer ivid: format {found}, this one reads up to {FORMAT}: expected an ivid as new")
  result = {key: value for key, value in mapping.items() if key != KEY}
  for step in _STEPS[found:]:
    try:
      result = step(result, kind)
    except ValueError as error:
      raise UserError(f"{source}: {error}") from None
  return result


def expected_key(key: str, known: Iterable[str]) -> str:
  """What to write instead of an unknown key: the new name of one that was renamed, else the nearest of the known ones."""
  return f"it is now {RENAMED[key]}" if key in RENAMED else nearest(key, known)


def _with_stages(mapping: dict[str, Any], kind: Kind, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
  """The file with every spec of a stage changed. What is not there or is no mapping is left for the reader of specs to refuse."""

  def one(stage: Any) -> Any:
    return change(stage) if isinstance(stage, dict) else stage

  if kind is Kind.CASCADE and isinstance(cascade := mapping.get("cascade"), dict) and isinstance(stages := cascade.get("stages"), list):
    return mapping | {"cascade": cascade | {"stages": [one(stage) for stage in stages]}}
  key = {Kind.STAGE: "spec", Kind.CHECKPOINT: "stage"}.get(kind)
  return mapping | {key: one(mapping[key])} if key in mapping else mapping


def _clips_say_their_mesh(mapping: dict[str, Any], kind: Kind) -> dict[str, Any]:
  """Format 1 to 2."""
  return {"mesh": None} | mapping if kind is Kind.CLIP else mapping


def _shift_is_a_number(mapping: dict[str, Any], kind: Kind) -> dict[str, Any]:
  """Format 0 to 1."""
  return _with_stages(mapping, kind, _with_number)


def _with_number(stage: dict[str, Any]) -> dict[str, Any]:
  diffusion = stage.get("diffusion")
  if not isinstance(diffusion, dict) or "resolution_shift" not in diffusion:
    return stage
  shifted = diffusion["resolution_shift"]
  if not isinstance(shifted, bool):
    raise UserError(f"diffusion.resolution_shift={shifted!r}: expected true or false")
  try:
    shift = resolution_logsnr_shift(ClipShape(**stage["output"])) if shifted else 0.0
  except (KeyError, TypeError):
    raise UserError("diffusion.resolution_shift=True: expected the stage's output beside it, with frames, height, width and fps") from None
  kept = {key: value for key, value in diffusion.items() if key != "resolution_shift"}
  return stage | {"diffusion": kept | {"logsnr_shift": shift}}


_STEPS = (_shift_is_a_number, _clips_say_their_mesh)  # the n-th takes a file from format n to n + 1
