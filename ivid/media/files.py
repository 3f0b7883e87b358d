"""Files that appear whole or not at all, and the metadata inside them."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator

from ivid.spec.errors import UserError


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Gives a temporary name beside `path`, of the same suffix, and renames it to `path` at the end; on failure nothing stays.

  Raises:
    UserError: the folder cannot be made or written.
  """
  target = pathlib.Path(path)
  temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    yield temporary
    os.replace(temporary, target)
  except OSError as error:
    raise UserError(f"cannot write {target}: {error.strerror or error}") from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def to_comment(metadata: dict | None) -> str:
  """Metadata as one line of ASCII JSON for a comment tag; empty for None."""
  return "" if metadata is None else json.dumps(metadata)


def from_comment(comment: str | None) -> dict | None:
  """The dictionary in a comment tag; None where there is none or where somebody else's text stands."""
  try:
    value = json.loads(comment or "null")
  except ValueError:
    return None
  return value if isinstance(value, dict) else None
