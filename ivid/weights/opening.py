"""Finds the weights that a user names: a run's work folder, a cascade's folder, or a cascade that ships."""

from __future__ import annotations

import pathlib
from typing import Any

import ivid
from ivid.media.copies import local_copy
from ivid.media.places import is_remote
from ivid.spec.errors import UserError, nearest
from ivid.spec.stage import StageSpec
from ivid.weights.cascades import CASCADE_FILE, TEXT_FOLDER, CascadeFolder, open_cascade
from ivid.weights.kept import is_run

RETRIEVAL_FOLDER = "retrieval"  # of a shipped cascade


def shipped_cascades() -> list[str]:
  """Names of the cascades that ship with the package."""
  return sorted(path.parent.name for path in _shipped().glob(f"*/{CASCADE_FILE}"))


def find_cascade(name: str) -> CascadeFolder:
  """The cascade in the folder `name`, or the one of that name that ships.

  Raises:
    UserError: neither exists; of a bucket, as of ivid.media.copies.local_copy.
  """
  if is_remote(name):
    return open_cascade(local_copy(name, "cascade"))
  if not (pathlib.Path(name) / CASCADE_FILE).is_file() and name in shipped_cascades():
    return open_cascade(_shipped() / name)
  if not pathlib.Path(name).is_dir():
    raise UserError(f"no cascade {name!r}: expected a folder with {CASCADE_FILE}, or one that ships: {nearest(name, shipped_cascades())}")
  return open_cascade(name)


def open_stage(source: str, stage: str, *, flag: str) -> tuple[StageSpec, Any, int]:
  """Spec, weights and step of a stage: EMA weights of a run's work folder, or those of `stage` in a cascade.

  Args:
    flag: the flag that named the source, such as --teacher, for error messages.

  Raises:
    UserError: there is neither, or it cannot be read.
  """
  if is_run(source):
    from ivid.weights.ema import load_ema  # Orbax takes a second to import, and sampling a cascade needs none

    return load_ema(source)
  try:
    cascade = find_cascade(source)
  except UserError:
    if is_remote(source):
      raise
    raise UserError(f"{flag}={source!r}: expected a work folder with checkpoints, a cascade's folder or a shipped cascade") from None
  entry = cascade.check(stage)
  return entry.spec, cascade.load_stage(stage), entry.step


def text_encoder_folder(name: str) -> pathlib.Path:
  """Folder of a frozen text encoder: a path, the name of a cascade that ships, or the copy of one in a bucket."""
  if is_remote(name):
    return local_copy(name, "text encoder")
  shipped = _shipped() / name / TEXT_FOLDER
  return shipped if shipped.is_dir() else pathlib.Path(name)


def retrieval_folder(name: str) -> pathlib.Path:
  """Folder of a network that measures retrieval: a path, or the name of a cascade that ships with one."""
  shipped = _shipped() / name / RETRIEVAL_FOLDER
  return shipped if name in shipped_cascades() and shipped.is_dir() else pathlib.Path(name)


def _shipped() -> pathlib.Path:
  return pathlib.Path(ivid.__file__).parent / "pretrained"
