"""Files of prompts."""

from __future__ import annotations

import os

from ivid.spec.errors import UserError
from ivid.spec.paths import read_lines


def read_prompts(path: str | os.PathLike[str]) -> list[str]:
  """Prompts of a text file, one per line, without blank lines.

  Raises:
    UserError: no such file, not UTF-8, or no prompt in it.
  """
  prompts = [line.strip() for line in read_lines(path, "prompts file") if line.strip()]
  if not prompts:
    raise UserError(f"{path} holds no prompt: expected one per line")
  return prompts
