"""The only way in which ivid writes: files (local or in a bucket) and folders that appear whole or not at all. Also metadata in files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import posixpath
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator

from ivid.media.places import is_remote, upload
from ivid.media.scratch import BEFORE, SCRATCH, is_scratch, put, remove, scratch_folder
from ivid.spec.errors import UserError
from ivid.spec.files import parse_json

# Errors of a disk; errors with other numbers come from something that is read in the meantime.
DISK = (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
BLOCK = 1 << 20


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a path of the same name to write to. At the end, that file replaces `path`; on failure, nothing changes or is left behind.

  A link is kept and its target replaced. Devices, pipes and descriptors such as /dev/stdout are written in place, at the end.

  Raises:
    UserError: it cannot be created or written, or is a folder, a socket or a disk.
  """
  if is_remote(path):  # an object appears whole
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as place, naming_disk_errors(path):
      temporary = pathlib.Path(place, posixpath.basename(os.fspath(path)))
      yield temporary
      upload(temporary, path)
    return
  path = pathlib.Path(path)
  if is_scratch(path):  # it belongs to a folder that is moved as a whole, which may contain the file that it replaces
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    yield path
    return
  with naming_errors(path):
    descriptor, target = _descriptor(path), _real(path)
    in_place = descriptor is not None or _is_special(target)
    if not in_place:
      target.parent.mkdir(parents=True, exist_ok=True)
  with naming_disk_errors(path), scratch_folder(None if in_place else target.parent) as place:
    temporary = place / path.name
    yield temporary
    with naming_errors(path):
      if in_place:
        _copy_into(temporary, target, descriptor)
      else:
        _to_disk(temporary)
        os.replace(temporary, target)


def write_whole(path: str | os.PathLike[str], contents: str | bytes) -> None:
  """Writes a small file, whole or not at all; text as UTF-8. Raises as `whole_file`."""
  with whole_file(path) as temporary:
    temporary.write_bytes(contents.encode("utf-8") if isinstance(contents, str) else contents)


def append_line(path: str | os.PathLike[str], line: str) -> None:
  """Appends a line, whole or not at all. If a killed process left an unfinished last line, that is ended first.

  Raises:
    UserError: it cannot be written.
  """
  with naming_errors(path), os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666), "rb+", buffering=0) as file:
    data, size = line.encode("utf-8") + b"\n", os.fstat(file.fileno()).st_size
    if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
      data = b"\n" + data
    try:
      if file.write(data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
      with contextlib.suppress(OSError):  # of a device
        file.truncate(size)
      raise


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str], *, keep: bool = False) -> Iterator[pathlib.Path]:
  """Yields a new folder to write into, which replaces `path` at the end; on failure, `path` stays as it was.

  At every moment, one of the two exists as a whole (ivid.media.scratch.put).

  Args:
    keep: whether the new folder starts with the contents of the old one. These are the same files: `whole_file` replaces them, but changes
      in place also change the old ones.

  Raises:
    UserError: it cannot be created or written, or is not a folder.
  """
  target = pathlib.Path(path)
  if is_scratch(target):  # a part of what is moved as a whole
    remove(target)
    target.mkdir(parents=True)
    yield target
    return
  with naming_errors(path):
    if target.exists() and not target.is_dir():
      raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    target.parent.mkdir(parents=True, exist_ok=True)
  with naming_disk_errors(path), scratch_folder(target.parent) as fresh:
    if target.exists():
      with naming_errors(path):
        if keep:
          shutil.copytree(target, fresh, symlinks=True, copy_function=_link, ignore=_unfinished, dirs_exist_ok=True)
        shutil.copymode(target, fresh)
    yield fresh
    with naming_errors(path):
      for file in fresh.rglob("*"):
        if file.is_file() and not file.is_symlink():
          _to_disk(file)
      put(fresh, target)


@contextlib.contextmanager
def updated_folder(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a folder in which `whole_file` and `whole_folder` replace parts. All parts change at once, at the end.

  They change one by one if the folder cannot be replaced: a mounted disk, the current folder of this process, or one whose parent is not
  writable. Raises as `whole_folder`.
  """
  path, here = pathlib.Path(path), pathlib.Path.cwd()
  real = path.resolve()
  if path.exists() and (real.is_mount() or not os.access(real.parent, os.W_OK) or real in (here, *here.parents)):
    yield path
  else:
    with whole_folder(real, keep=True) as fresh:
      yield fresh


@contextlib.contextmanager
def naming_errors(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns an OSError into a UserError that says that `path` cannot be written, and why."""
  try:
    yield
  except OSError as error:
    raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def naming_disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
  """Like `naming_errors`, but only for errors of a scratch folder and of the disk; others come from files read in the meantime."""
  try:
    yield
  except OSError as error:
    ours = error.errno in DISK if error.filename is None else SCRATCH in str(error.filename)
    if not ours:
      raise
    raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _real(path: pathlib.Path) -> pathlib.Path:
  """The path behind links, even if there is no file."""
  try:
    return path.resolve() if path.is_symlink() else path
  except RuntimeError:  # pathlib raises this for a loop before Python 3.13
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None


def _is_special(target: pathlib.Path) -> bool:
  """Whether it is a device or a pipe. Raises OSError if it cannot be written at all."""
  try:
    mode = target.stat().st_mode
  except FileNotFoundError:
    return False
  if stat.S_ISDIR(mode):
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
  if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
    raise OSError(errno.EINVAL, f"it is a {'socket' if stat.S_ISSOCK(mode) else 'disk'}")
  return not stat.S_ISREG(mode)


def _descriptor(path: pathlib.Path) -> int | None:
  """The number behind /dev/stdout, /dev/fd/3 and the like; None for any other path."""
  for _ in range(8):
    folder = os.path.realpath(path.parent)
    if folder in (f"/proc/{os.getpid()}/fd", "/dev/fd"):
      return int(path.name) if path.name.isdecimal() else None
    path = pathlib.Path(folder, path.name)
    if not path.is_symlink():
      break
    path = pathlib.Path(folder, os.readlink(path))
  return None


def _copy_into(source: pathlib.Path, target: pathlib.Path, descriptor: int | None) -> None:
  """Writes a file's bytes into something that is not a regular file. A pipe without a reader is an error, not an endless wait."""
  sys.stdout.flush()
  if descriptor is None:
    out = os.open(target, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    os.set_blocking(out, True)
  else:
    out = os.dup(descriptor)
  with os.fdopen(out, "wb", buffering=0) as file, open(source, "rb") as data:
    while block := data.read(BLOCK):
      while block:
        block = block[file.write(block) :]


def _to_disk(path: pathlib.Path) -> None:
  """Makes a disk report errors now that it would report later, or to nobody."""
  file = os.open(path, os.O_RDONLY)
  try:
    os.fsync(file)
  except OSError as error:
    if error.errno != errno.EINVAL:  # the file system does not have it
      raise
  finally:
    os.close(file)


def _link(source: str, target: str) -> None:
  try:
    os.link(source, target)
  except OSError:  # the file system has no links
    shutil.copy2(source, target)


def _unfinished(folder: str, names: list[str]) -> list[str]:
  del folder
  return [name for name in names if name.startswith((SCRATCH, BEFORE))]


def to_comment(metadata: dict | None) -> str:
  """Metadata as one line of ASCII JSON for a comment tag; empty for None."""
  return "" if metadata is None else json.dumps(metadata)


def from_comment(comment: str | None) -> dict | None:
  """The dictionary in a comment tag; None if there is none, or if the text is not by ivid."""
  try:
    value = parse_json(comment or "null", source="a comment")
  except UserError:
    return None
  return value if isinstance(value, dict) else None


def at_home(path: str | os.PathLike[str], *, instead: str) -> pathlib.Path:
  """The path with `~` replaced by the user's home folder.

  Raises:
    UserError: there is none, as in a container that runs under an unknown user id. `instead`: what to give then.
  """
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError:
    raise UserError(f"{path}: there is no home folder, neither in HOME nor of this user: expected {instead}") from None
