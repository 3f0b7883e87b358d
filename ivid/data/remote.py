"""Opening files that are local, in a bucket or on the web (fsspec), with limits on the time and size of an answer."""

from __future__ import annotations

import os
import time
from typing import IO, cast

import fsspec

from ivid.media import places
from ivid.spec.paths import MISSING, instead_of_file

SECONDS = 300.0  # the time that one answer of a web server may take, from first to last byte
MOST_BYTES = 4 << 30  # of one file in memory; ivid.data.fetch holds AHEAD of them
BLOCK = 1 << 20
WEB = ("http://", "https://")


def file_system(address: str, seconds: float | None = None) -> tuple[fsspec.AbstractFileSystem, str]:
  """The file system of a path or address, and the path in it.

  Args:
    seconds: that one answer of a web server may take in total; None: SECONDS.

  Raises:
    UserError: the scheme is unknown, or its package is not installed.
  """
  options = {}
  if address.startswith(WEB):
    try:
      import aiohttp  # of the extra cloud
    except ImportError:
      return places.file_system(address)  # whose error says what is missing
    options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=seconds or SECONDS)}
  return places.file_system(address, **options)


def is_local(system: fsspec.AbstractFileSystem) -> bool:
  """Whether the file system is that of this machine."""
  return system.protocol == "file" or "file" in system.protocol


def read_bytes(address: str, *, seconds: float | None = None, most: int | None = None) -> bytes:
  """All of a file.

  Args:
    seconds: that it may take to arrive from a web server; None: SECONDS.
    most: largest allowed number of bytes; None: MOST_BYTES.

  Raises:
    FileNotFoundError: there is no such file.
    TimeoutError: it took too long.
    OSError: it is not a regular file, or is too large.
    UserError: as `file_system`. Servers may raise other errors.
  """
  seconds, most = seconds or SECONDS, most or MOST_BYTES
  system, path = file_system(address, seconds)
  if is_local(system):
    found = instead_of_file(path)
    if found:
      raise FileNotFoundError(MISSING) if found == MISSING else OSError(found)
    _check_size(os.stat(path).st_size, most)
    return cast("bytes", system.cat_file(path))
  if not address.startswith(WEB):
    _check_size(system.info(path).get("size") or 0, most)
    return cast("bytes", system.cat_file(path))
  end = time.monotonic() + seconds
  # Read as a stream, which needs no size in advance, because servers may give none or a wrong one.
  try:
    with system.open(path, "rb", block_size=0, size=1) as file:
      return _streamed(cast("IO[bytes]", file), end, most)
  except TimeoutError:
    raise TimeoutError(f"did not arrive in {seconds:g} s") from None


def _streamed(file: IO[bytes], end: float, most: int) -> bytes:
  parts, size = [], 0
  while part := file.read(BLOCK):
    parts.append(part)
    size += len(part)
    _check_size(size, most)
    if time.monotonic() > end:
      raise TimeoutError
  return b"".join(parts)


def _check_size(size: int, most: int) -> None:
  if size > most:
    raise OSError(f"it has more than {most} bytes")
