"""The one way to write: files, here or in a bucket, and folders that appear whole or not at all. And the metadata inside files."""

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

# What a disk says; errors of other numbers are of something that is read meanwhile.
DISK = (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
BLOCK = 1 << 20


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Gives a path of the same name to write to, whose file takes the place of `path` at the end; on failure nothing stays or changes.

  A link stays, and its target is replaced. Devices, pipes and descriptors such as /dev/stdout are written in place, at the end.

  Raises:
    UserError: it cannot be made or written, or is a folder, a socket or a disk.
  """
  if is_remote(path):  # an object appears whole
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as place, naming_disk_errors(path):
      temporary = pathlib.Path(place, posixpath.basename(os.fspath(path)))
      yield temporary
      upload(temporary, path)
    return
  path = pathlib.Path(path)
  if is_scratch(path):  # a part of what is moved as a whole; there may be the very file that it replaces
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
  """Writes a small file, whole or not at all; text as UTF-8. Errors as of `whole_file`."""
  with whole_file(path) as temporary:
    temporary.write_bytes(contents.encode("utf-8") if isinstance(contents, str) else contents)


def append_line(path: str | os.PathLike[str], line: str) -> None:
  """Adds a line, whole or not at all, to a file of lines; where a killed process broke off in its last one, that is ended first.

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
  """Gives a new folder to write into, which takes the place of `path` at the end; on failure that stays as it was.

  At every moment one of both is there whole, as ivid.media.scratch.put has it.

  Args:
    keep: whether the new folder begins with all that is in the old one. Its files are the same ones: `whole_file` replaces them, but what
      changes them in place changes the old ones too.

  Raises:
    UserError: it cannot be made or written, or is no folder.
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
  """Gives a folder in which `whole_file` and `whole_folder` are to replace parts; all of them change at once, at the end.

  They change one by one in a folder that cannot be exchanged: a mounted disk, one that this process stands in, or one whose parent cannot
  be written. Errors as of `whole_folder`.
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
  """Says an OSError as a UserError: that `path` cannot be written, and why."""
  try:
    yield
  except OSError as error:
    raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def naming_disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
  """As `naming_errors`, of errors of a scratch folder and of the disk alone: others are of files that are read meanwhile."""
  try:
    yield
  except OSError as error:
    ours = error.errno in DISK if error.filename is None else SCRATCH in str(error.filename)
    if not ours:
      raise
    raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _real(path: pathlib.Path) -> pathlib.Path:
  """The path behind links, where there need not be a file."""
  try:
    return path.resolve() if path.is_symlink() else path
  except RuntimeError:  # what pathlib says of a loop before Python 3.13
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None


def _is_special(target: pathlib.Path) -> bool:
  """Whether it is a device or a pipe; OSError if it cannot be written at all."""
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
  """The number behind /dev/stdout, /dev/fd/3 and their like; None for any other path."""
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
  """Writes a file's bytes into what is no regular file. A pipe that nobody reads is an error, not a wait without end."""
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
  """Makes a disk say now what it would say later, or to nobody."""
  file = os.open(path, os.O_RDONLY)
  try:
    os.fsync(file)
  except OSError as error:
    if error.errno != errno.EINVAL:  # a file system without it
      raise
  finally:
    os.close(file)


def _link(source: str, target: str) -> None:
  try:
    os.link(source, target)
  except OSError:  # a file system without links
    shutil.copy2(source, target)


def _unfinished(folder: str, names: list[str]) -> list[str]:
  del folder
  return [name for name in names if name.startswith((SCRATCH, BEFORE))]


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


def at_home(path: str | os.PathLike[str], *, instead: str) -> pathlib.Path:
  """The path, `~` in it replaced by the user's folder.

  Raises:
    UserError: the user has none, as where a container runs as a number that no user has; `instead`: what can be given then.
  """
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError:
    raise UserError(f"{path}: there is no home folder, neither in HOME nor of this user: expected {instead}") from None
