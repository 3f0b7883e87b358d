"""Files and folders in a bucket: paths that behave like pathlib's, and files that appear whole.

An object appears whole, at the moment when its upload ends. But several objects do not appear together, and none can be renamed. What
consists of several is complete when the last one is there (Orbax's commit_success.txt, key.json, cascade.json).
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import posixpath
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from ivid.spec.errors import UserError, first_line

if TYPE_CHECKING:  # slow to import, and most runs need neither
  import fsspec

GOOGLE = "gs://"  # the only scheme that Orbax, TensorStore and epath can all write to
# No listings are cached, because other processes write into the same folders. Same options as epath's, so both share one file system.
OPTIONS = {"gs": dict(use_listings_cache=False, finalize_on_close=True)}
OPTIONS["gcs"] = OPTIONS["gs"]


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Whether it is an address, such as gs://bucket/folder, and not a local path."""
  return "://" in os.fspath(path)


def file_system(address: str, **options: Any) -> tuple[fsspec.AbstractFileSystem, str]:
  """The file system of a path or address, and the path in it.

  Raises:
    UserError: the scheme is unknown, or its package is not installed.
  """
  import fsspec

  for name, values in OPTIONS.items():  # epath makes its own file systems, of the same class and thus with the same options
    fsspec.config.conf.setdefault(name, {}).update(values)  # pyright: ignore[reportAttributeAccessIssue]  fsspec imports it
  try:
    return fsspec.core.url_to_fs(address, **options)
  except ImportError as error:
    raise UserError(f"{address}: {error} (pip install 'ivid[cloud]' brings gs://, s3:// and http://)") from error
  except ValueError as error:
    raise UserError(f"{address}: {error}") from None


def open_folder(path: str | os.PathLike[str], name: str) -> pathlib.Path:
  """A folder to write into: a pathlib path if it is local, an epath if it is in a bucket.

  Args:
    name: what it is, for errors, such as --workdir.

  Raises:
    UserError: the address is not gs://, or the bucket does not exist or cannot be read.
  """
  if not is_remote(path):
    return pathlib.Path(path)
  said, text = f"{name}={os.fspath(path)}", os.fspath(path)
  bucket = text.removeprefix(GOOGLE).partition("/")[0]
  if not text.startswith(GOOGLE) or not bucket:
    raise UserError(f"{said}: expected a path, or {GOOGLE}BUCKET/FOLDER; another bucket as the folder that it is mounted as")
  try:
    there = file_system(text)[0].exists(bucket)
  except UserError as error:  # the message begins with the address
    raise UserError(f"{name}={error}") from None
  except Exception as error:  # the client raises many kinds
    raise UserError(f"{said}: {first_line(error)}") from None
  if not there:
    raise UserError(f"{said}: there is no bucket {bucket}, or none that may be read: expected one that `gcloud storage buckets list` shows")
  from etils import epath

  return cast("pathlib.Path", epath.Path(text))  # which has the same methods


def local_path(path: str | os.PathLike[str], name: str) -> pathlib.Path:
  """A local path. Raises UserError for an address, which would become a folder named `gs:`. `name`: what it is, for the error."""
  scheme, found, rest = os.fspath(path).partition("://")
  if found:
    raise UserError(f"{name}={os.fspath(path)}: expected a path, such as /{scheme}/{rest}, where the bucket is mounted (launch/README.md)")
  return pathlib.Path(path)


@contextlib.contextmanager
def naming_remote_errors(address: str | os.PathLike[str], what: str = "write") -> Iterator[None]:
  """Turns any error of a bucket's client into a UserError that says that `address` cannot be written, and why."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # each client has its own classes
    raise UserError(f"cannot {what} {os.fspath(address)}: {first_line(error)}") from error


def upload(file: pathlib.Path, address: str | os.PathLike[str]) -> None:
  """Uploads a finished local file to a bucket. Raises UserError if this fails."""
  system, target = file_system(os.fspath(address))
  with naming_remote_errors(address):
    system.makedirs(posixpath.dirname(target), exist_ok=True)  # for memory:// and the like; buckets have no folders
    system.put_file(str(file), target)


def upload_folder(folder: pathlib.Path, address: str, *, last: str) -> None:
  """Uploads all files of a folder, the one named `last` after all others. Raises UserError if this fails."""
  files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
  for name in sorted(files, key=lambda name: name == last):
    upload(folder / name, posixpath.join(address, name))


@contextlib.contextmanager
def local_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """The file itself or, for a bucket, a copy that exists within the context. Raises UserError if it cannot be read."""
  if not is_remote(path):
    yield path
    return
  system, source = file_system(os.fspath(path))
  with tempfile.TemporaryDirectory() as place:
    copy = pathlib.Path(place, path.name)
    with naming_remote_errors(path, "read"):
      system.get_file(source, str(copy))
    yield copy


def move(path: pathlib.Path, target: pathlib.Path) -> None:
  """Renames a folder. In a bucket, copies it object by object and then removes it."""
  if not is_remote(path):
    path.rename(target)
    return
  system, source = file_system(os.fspath(path))
  system.mv(source, file_system(os.fspath(target))[1], recursive=True)
