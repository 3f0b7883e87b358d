"""Local copies of folders in buckets, for readers such as ArrayRecord and safetensors that map files or read at random positions."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import posixpath
import shutil
import sys

from ivid.media.files import at_home, whole_folder
from ivid.media.places import file_system, is_remote, naming_remote_errors
from ivid.media.scratch import lock_file
from ivid.spec.errors import UserError

ROOM = 1.05  # free space that a disk must have, relative to what is copied


def local_copy(address: str | os.PathLike[str], name: str, *, cache: pathlib.Path | None = None) -> pathlib.Path:
  """The folder itself or, for a bucket, a copy below `cache`, which is made again when anything has changed there.

  Args:
    name: what it is, for errors.
    cache: None: that of the user.

  Raises:
    UserError: it does not exist, cannot be read, or does not fit onto the disk; or as user_cache.
  """
  if not is_remote(address):
    return pathlib.Path(address)
  text = os.fspath(address).rstrip("/")
  system, root = file_system(text)
  with naming_remote_errors(text, "read"):
    found = system.find(root, detail=True)
  if not found:
    raise UserError(f"{name}={text}: there is nothing, or nothing that may be read")
  files = {posixpath.relpath(path, root): info for path, info in found.items()}  # pyright: ignore[reportAttributeAccessIssue]  fsspec gives a dictionary where details are asked for
  state = {path: [str(info.get(key)) for key in ("size", "etag", "generation", "mtime", "created")] for path, info in files.items()}
  digest = hashlib.sha256(json.dumps([text, state], sort_keys=True).encode()).hexdigest()[:16]
  cache = cache or user_cache()
  target = cache / "copies" / f"{posixpath.basename(root)}-{digest}"
  with lock_file(target.with_name(f"{target.name}.lock")):
    if not target.is_dir():
      size = sum(info.get("size") or 0 for info in files.values())
      room = shutil.disk_usage(target.parent).free
      if size * ROOM > room:
        raise UserError(f"{name}={text} has {size / 1e9:.1f} GB, and {cache} room for {room / 1e9:.1f}: expected a bucket that is mounted")
      print(f"copying {text} ({len(files)} files, {size / 1e9:.2f} GB) to {target}", file=sys.stderr, flush=True)
      with whole_folder(target) as fresh, naming_remote_errors(text, "read"):
        for path in files:
          (fresh / path).parent.mkdir(parents=True, exist_ok=True)
          system.get_file(posixpath.join(root, path), str(fresh / path))
  return target


def user_cache() -> pathlib.Path:
  """$XDG_CACHE_HOME/ivid or ~/.cache/ivid; not created here. Raises UserError if neither is known."""
  return at_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache", instead="XDG_CACHE_HOME, or data.cache for embeddings") / "ivid"
