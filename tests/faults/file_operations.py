"""Stands between the code and the disk: counts what changes files below a folder, and lets it fail as a kill or a full disk does."""

import builtins
import contextlib
import errno
import io
import os
import pathlib

import av
from array_record.python import array_record_module
from pyarrow import parquet

from ivid.media import scratch

WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT
REMOVING = ("unlink", "remove", "rmdir")


class Kill(BaseException):
  """What no code catches: the process is dead."""


class Disk:
  """Operations on files below `root`, in order, as (name, path).

  Args:
    killed_at: the operation before which the process dies: that one and all later ones raise Kill.
    full_at: the operation from which on the disk is full: whatever is made, also by libraries, fails.
  """

  def __init__(self, root, *, killed_at=None, full_at=None):
    self.root, self.killed_at, self.full_at = os.path.realpath(root), killed_at, full_at
    self.operations = []

  def before(self, name, path, dir_fd=None):
    path = os.fspath(path)
    path = os.fsdecode(path) if isinstance(path, bytes) else path
    if dir_fd is not None:
      path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
    path = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
    if not path.startswith(self.root + os.sep):
      return
    self.operations.append((name, os.path.relpath(path, self.root)))
    place = len(self.operations) - 1
    if self.killed_at is not None and place >= self.killed_at:
      raise Kill(f"before operation {place}, {name} {path}")
    if self.full_at is not None and place >= self.full_at and name not in REMOVING:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path if name in ("mkdir", "open") else None)

  @contextlib.contextmanager
  def watched(self, monkeypatch):
    """While it lasts every operation is seen; a dead process frees its locks, as its files are closed."""
    with monkeypatch.context() as patch:
      for name in ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "link", "symlink"):
        patch.setattr(os, name, self._seen(name, getattr(os, name)))
      patch.setattr(os, "open", self._opened(os.open))
      for module in (builtins, io):
        patch.setattr(module, "open", self._text_opened(io.open))
      patch.setattr(scratch, "_exchange", self._exchanged(scratch._exchange))
      patch.setattr(av, "open", self._text_opened(av.open))
      for module, writer in ((array_record_module, "ArrayRecordWriter"), (parquet, "ParquetWriter")):
        patch.setattr(module, writer, self._made(getattr(module, writer)))
      yield self

  def _seen(self, name, original):
    def call(path, *args, **options):
      self.before(name, args[0] if name in ("rename", "replace", "link", "symlink") else path, options.get("dir_fd"))
      return original(path, *args, **options)

    return call

  def _opened(self, original):
    def call(path, flags, *args, **options):
      if flags & WRITE_FLAGS:
        self.before("open", path, options.get("dir_fd"))
      return original(path, flags, *args, **options)

    return call

  def _text_opened(self, original):
    def call(file, mode="r", *args, **options):
      if set(mode) & set("wax+") and not isinstance(file, int | io.IOBase):
        self.before("open", file)
      return original(file, mode, *args, **options)

    return call

  def _exchanged(self, original):
    def call(a, b):
      self.before("exchange", b)
      return original(a, b)

    return call

  def _made(self, original):
    def call(path, *args, **options):
      self.before("open", path)
      return original(path, *args, **options)

    return call


def contents(root):
  """Bytes of all files below a folder by their paths, those in hidden folders too; of empty folders None."""
  root = pathlib.Path(root)
  found = {}
  for path in sorted(root.rglob("*")):
    if path.is_file():
      found[str(path.relative_to(root))] = path.read_bytes()
    elif not any(path.iterdir()):
      found[str(path.relative_to(root))] = None
  return found


def visible(files):
  """Those of `contents` whose path has no hidden part."""
  return {name: data for name, data in files.items() if not any(part.startswith(".") for part in name.split("/"))}
