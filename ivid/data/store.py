"""A local folder or one in a bucket, in which files appear whole or not at all. In a bucket, they are copies of finished local files."""

from __future__ import annotations

import contextlib
import os
import pathlib
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, cast

from ivid.data.remote import file_system
from ivid.media.files import naming_disk_errors, whole_file
from ivid.media.scratch import lock_file

LOCK = ".lock"


class Store:
  """The files of one folder, by name."""

  def __init__(self, folder: str):
    self.folder = folder
    self._system, self._root = file_system(folder)
    self._local = "://" not in folder

  def path(self, name: str) -> str:
    return posixpath.join(self._root, name)

  def exists(self, name: str) -> bool:
    return self._system.exists(self.path(name))

  def names(self, folder: str = "") -> list[str]:
    """Names of the files in the folder, or in one of its folders."""
    place = self.path(folder) if folder else self._root
    if not self._system.isdir(place):
      return []
    return sorted(posixpath.basename(path) for path in self._system.ls(place, detail=False))

  def read(self, name: str) -> bytes:
    return cast("bytes", self._system.cat_file(self.path(name)))

  def open(self, name: str) -> IO[bytes]:
    """The opened file, which can be read at any position."""
    return cast("IO[bytes]", self._system.open(self.path(name), "rb"))

  @contextlib.contextmanager
  def writing(self, name: str) -> Iterator[pathlib.Path]:
    """Yields a local path to write to; the file gets its name at the end, and on failure nothing is left.

    Raises:
      UserError: it cannot be written, for example because a disk is full.
    """
    if self._local:
      with whole_file(self.path(name)) as path:
        yield path
      return
    with tempfile.TemporaryDirectory() as place, naming_disk_errors(posixpath.join(self.folder, name)):
      temporary = pathlib.Path(place) / posixpath.basename(name)
      yield temporary
      self._system.makedirs(posixpath.dirname(self.path(name)), exist_ok=True)
      self._system.put_file(str(temporary), self.path(name))

  def write(self, name: str, contents: str | bytes) -> None:
    """Writes a small file, with text as UTF-8. Raises as `writing`."""
    with self.writing(name) as path:
      path.write_bytes(contents.encode("utf-8") if isinstance(contents, str) else contents)

  @contextlib.contextmanager
  def local(self, name: str) -> Iterator[str]:
    """The local path of the file; for a bucket, a copy that exists within the context."""
    if self._local:
      yield self.path(name)
      return
    with tempfile.TemporaryDirectory() as place:
      path = os.path.join(place, posixpath.basename(name))
      self._system.get_file(self.path(name), path)
      yield path

  def copy(self, name: str, target: str) -> None:
    """Gives the file a second name; locally, both names share the bytes."""
    if not self._local:
      self._system.cp_file(self.path(name), self.path(target))
      return
    with self.writing(target) as path:
      try:
        os.link(self.path(name), path)
      except OSError:  # the file system has no links
        shutil.copyfile(self.path(name), path)

  def remove(self, name: str) -> None:
    """Removes a file, or a folder with its contents; it is no error if there is none."""
    with contextlib.suppress(FileNotFoundError):
      self._system.rm(self.path(name), recursive=True)

  @contextlib.contextmanager
  def alone(self) -> Iterator[None]:
    """Lets only one of the processes that share the disk proceed at a time; buckets have no locks."""
    if not self._local:
      yield
      return
    with lock_file(self.path(LOCK)):
      yield
