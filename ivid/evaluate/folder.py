"""Clips of a folder with the prompts that they are to show."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from ivid.evaluate.prompts import Prompt, parse_prompt
from ivid.media.clips import read_metadata
from ivid.spec.errors import UserError, shown

SUFFIXES = (".mp4", ".webm", ".gif", ".png", ".mov", ".mkv", ".avi")


def find_clips(folder: str | os.PathLike[str], prompts: Sequence[Prompt] | None = None) -> list[tuple[Prompt, pathlib.Path]]:
  """The clips of a folder by name, each with its prompt: the n-th of `prompts`, or the one in the clip's own metadata.

  Pictures without a clip's metadata, such as contact sheets, do not count unless `prompts` are given.

  Raises:
    UserError: there is no such folder or clip, the numbers of clips and prompts differ, a clip has no metadata, or a prompt is outside
      the grammar.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise UserError(f"no folder of clips at {folder}")
  files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
  if prompts is not None:
    if files and len(files) != len(prompts):
      raise UserError(f"{len(files)} clips in {folder} and {len(prompts)} prompts: expected as many, the clips in the order of their names")
    pairs = list(zip(prompts, files, strict=False))
  else:
    pairs = [pair for pair in map(_with_own_prompt, files) if pair is not None]
  if not pairs:
    raise UserError(f"{folder} has no clips: expected files that end in {', '.join(SUFFIXES)}")
  return pairs


def _with_own_prompt(path: pathlib.Path) -> tuple[Prompt, pathlib.Path] | None:
  metadata = read_metadata(path)
  text = metadata.get("prompt") if isinstance(metadata, dict) else None
  if text is not None and not isinstance(text, str):
    raise UserError(f"{path}: its prompt is {shown(text)}: expected a text")
  if text is None:
    if path.suffix.lower() == ".png":
      return None
    raise UserError(f"{path} does not say what it is to show: expected a clip of `ivid sample`, or a file with a prompt for each clip")
  try:
    return parse_prompt(text), path
  except ValueError as error:
    raise UserError(f"{path}: {error}") from None
