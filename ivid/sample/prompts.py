"""Files of prompts."""

from __future__ import annotations

import os
import pathlib

from ivid.spec.errors import UserError


def read_prompts(path: str | os.PathLike) -> list[str]:
  """Prompts of a text file, one per line, without blank lines.

  Raises:
    UserError: no such file, not UTF-8, or no prompt in it.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"no prompts file at {path}")
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
  prompts = [line.strip() for line in lines if line.strip()]
  if not prompts:
    raise UserError(f"{path} holds no prompt: expected one per line")
  return prompts
