"""The clips of a folder."""

from __future__ import annotations

import pathlib

from ivid.media.scratch import is_scratch
from ivid.spec.errors import UserError

SUFFIXES = (".mp4", ".webm", ".gif", ".mov", ".mkv", ".avi", ".m4v")


def clip_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Clips of `folder` and below, by name.

  Raises:
    UserError: no such folder, or no clips in it.
  """
  if not folder.is_dir():
    raise UserError(f"{folder} is no folder: expected one of clips ({', '.join(SUFFIXES)})")
  named = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
  found = [path for path in named if not is_scratch(path)]
  if not found:
    raise UserError(f"{folder} holds no clips: expected files ending in {', '.join(SUFFIXES)}")
  return found
