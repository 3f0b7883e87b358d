"""The format of every JSON file that ivid writes, and how files of older formats become today's.

Every file is an object with `format` at the top; a list lies under `rows`. Only metrics.jsonl has no `format`: it is a log that other
people's programs read, too, and a run may continue the file of an older ivid. The header of a safetensors file has safetensors' own format.

Format 0 is every file without a `format`. It has `diffusion.resolution_shift`, true or false, where format 1 has the number
`diffusion.logsnr_shift`. Format 2 adds to a clip's metadata the `mesh` of devices on which it was made, which older formats do not state,
as well as `negative_prompt` and `given`; if these are missing, there was no such text and there were no given frames.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from ivid.spec.clip import ClipShape, resolution_logsnr_shift
from ivid.spec.errors import UserError, nearest

FORMAT = 2
KEY = "format"  # at the top of every file
# Keys that a user's config may still contain, and what replaced them.
RENAMED = {"resolution_shift": "logsnr_shift, a number: 0.0 for False, and for True what ivid.spec.clip.resolution_logsnr_shift gives"}


class Kind(enum.Enum):
  """The kind of a file, which determines where the specs of stages are in it."""

  CASCADE = "cascade"  # cascade.json: `cascade.stages`
  STAGE = "stage"  # STAGE/spec.json of a cascade: `spec`
  CHECKPOINT = "checkpoint"  # a checkpoint's meta: `stage`
  CLIP = "clip"  # a clip's metadata: no whole spec of a stage
  TEXT = "text"  # a text encoder's spec.json: no stage
  EMBEDDINGS = "embeddings"  # key.json of stored embeddings: no stage
  DATA = "data"  # what a checkpoint holds besides arrays, such as its position in the data: no stage
  REPORT = "report"  # figures: no stage
  RUN = "run"  # config.json of a work folder: `cascade.stages`
  PREPARED = "prepared"  # plan.json of a prepared data set: no stage
  RETRIEVAL = "retrieval"  # spec.json of a retrieval network: no stage
  SHARE = "share"  # run.json of `ivid sample --process`: no whole spec of a stage


def stamped(mapping: Mapping[str, Any]) -> dict[str, Any]:
  """The contents of a file with today's format at the top."""
  return {KEY: FORMAT, **mapping}


def migrate(mapping: Any, kind: Kind, *, source: Any) -> dict[str, Any]:
  """The contents of a file, brought to today's format, without `format`; `mapping` itself is not changed.

  Args:
    source: the file's name, for errors.

  Raises:
    UserError: it is not a mapping; its format is not a number or is newer than FORMAT; or a value does not belong to its format.
  """
  if not isinstance(mapping, Mapping):
    raise UserError(f"{source} holds a {type(mapping).__name__}: expected a JSON object, as ivid writes it")
  said = cast("Mapping[str, Any]", mapping)
  found = said.get(KEY, 0)
  if isinstance(found, bool) or not isinstance(found, int) or found < 0:
    raise UserError(f"{source}: format={found!r}: expected a whole number from 0 to {FORMAT}")
  if found > FORMAT:
    raise UserError(f"{source} was written by a newer ivid: format {found}, this one reads up to {FORMAT}: expected a newer ivid")
  result = {key: value for key, value in said.items() if key != KEY}
  for step in _STEPS[found:]:
    try:
      result = step(result, kind)
    except ValueError as error:
      raise UserError(f"{source}: {error}") from None
  return result


def expected_key(key: str, known: Iterable[str]) -> str:
  """What to write instead of an unknown key: its new name if it was renamed, else the nearest known key."""
  return f"it is now {RENAMED[key]}" if key in RENAMED else nearest(key, known)


def _with_stages(mapping: dict[str, Any], kind: Kind, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
  """The file with `change` applied to every spec of a stage. Missing or malformed specs are left for the reader of specs to refuse."""

  def one(stage: Any) -> Any:
    return change(cast("dict[str, Any]", stage)) if isinstance(stage, dict) else stage

  cascade = mapping.get("cascade")
  if kind is Kind.CASCADE and isinstance(cascade, dict):
    section = cast("dict[str, Any]", cascade)
    if isinstance(stages := section.get("stages"), list):
      return mapping | {"cascade": section | {"stages": [one(stage) for stage in cast("list[Any]", stages)]}}
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
  section = cast("dict[str, Any]", diffusion)
  shifted = section["resolution_shift"]
  if not isinstance(shifted, bool):
    raise UserError(f"diffusion.resolution_shift={shifted!r}: expected true or false")
  try:
    shift = resolution_logsnr_shift(ClipShape(**stage["output"])) if shifted else 0.0
  except (KeyError, TypeError):
    raise UserError("diffusion.resolution_shift=True: expected the stage's output beside it, with frames, height, width and fps") from None
  kept = {key: value for key, value in section.items() if key != "resolution_shift"}
  return stage | {"diffusion": kept | {"logsnr_shift": shift}}


_STEPS = (_shift_is_a_number, _clips_say_their_mesh)  # the n-th takes a file from format n to n + 1
