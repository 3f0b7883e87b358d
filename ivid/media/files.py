"""Files that appear whole or not at all, and the metadata inside them."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator

from ivid.spec.errors import UserError
from ivid.spec.files import parse_json


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


def write_whole(path: str | os.PathLike, contents: str | bytes) -> None:
  """Writes a small file, whole or not at all; text as UTF-8. Errors as of `whole_file`."""
  with whole_file(path) as temporary:
    temporary.write_bytes(contents.encode("utf-8") if isinstance(contents, str) else contents)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Gives a new folder of a temporary name beside `path`, and puts it in the place of what is there at the end; on failure that stays."""
  target = pathlib.Path(path)
  fresh, old = (target.with_name(f".{target.name}.{kind}{os.getpid()}") for kind in ("", "old."))
  shutil.rmtree(fresh, ignore_errors=True)
  try:
    fresh.mkdir(parents=True)
    yield fresh
    if target.exists():
      os.replace(target, old)
    os.replace(fresh, target)
    shutil.rmtree(old, ignore_errors=True)
  except OSError as error:
    raise UserError(f"cannot write {target}: {error.strerror or error}") from error
  finally:
    if old.exists() and not target.exists():  # nothing took its place
      os.replace(old, target)
    shutil.rmtree(fresh, ignore_errors=True)


def to_comment(metadata: dict | None) -> str:
  """Metadata as one line of ASCII JSON for a comment tag; empty for None."""
  return "" if metadata is None else json.dumps(metadata)


def from_comment(comment: str | None) -> dict | None:
  """The dictionary in a comment tag; None where there is none or where somebody else's text stands."""
  try:
    value = parse_json(comment or "null", source="a comment")
  except UserError:
    return None
  return value if isinstance(value, dict) else None


def at_home(path: str | os.PathLike, *, instead: str) -> pathlib.Path:
  """The path, `~` in it replaced by the user's folder.

  Raises:
    UserError: the user has none, as where a container runs as a number that no user has; `instead`: what can be given then.
  """
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError:
    raise UserError(f"{path}: there is no home folder, neither in HOME nor of this user: expected {instead}") from None
