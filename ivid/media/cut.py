"""Whether a file ends before its own structure does: in the middle of a box, element, page, packet, tag, chunk or block.

Only their heads are read, but by `wrong_chunk`. A file that was cut just between two of them, in a format that says nothing of what is to
follow (a stream of MPEG-TS, Matroska as it is sent live), cannot be told from a whole one.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import BinaryIO

from ivid.media.picture import Source

BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx", b"pnot", b"jP  ")
SEGMENT, CLUSTER = 0x18538067, 0x1F43B675
PART = 1 << 20  # bytes that are read at once
TS_PACKETS = ((188, 0), (192, 4), (204, 0))  # bytes, and where 0x47 stands
PNG_HEAD = 8  # bytes of a PNG before its first chunk


class _Ends(Exception):
  """Too few bytes."""


def is_cut(source: Source) -> bool | None:
  """None: of a format whose structure is not known here, or of one that has none."""
  with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
    head = file.read(1024)
    length = file.seek(0, io.SEEK_END)
    walk = _walk_of(head)
    if walk is None:
      return None
    try:
      return walk(file, length)
    except _Ends:
      return True


def wrong_chunk(source: Source) -> str:
  """The first chunk of a PNG whose sum is not that of its bytes, such as 'IDAT'; empty: there is none, up to where the file ends."""
  with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
    file.seek(PNG_HEAD)
    while len(head := file.read(8)) == 8 and (name := head[4:]) != b"IEND":
      left, have = int.from_bytes(head[:4], "big"), zlib.crc32(name)
      while left and (part := file.read(min(left, PART))):
        left, have = left - len(part), zlib.crc32(part, have)
      want = file.read(4)
      if left or len(want) < 4:
        break  # it was cut
      if have != int.from_bytes(want, "big"):
        return name.decode("ascii", "replace")
  return ""


def _walk_of(head: bytes) -> Callable[[BinaryIO, int], bool] | None:
  if head[4:8] in BOXES:
    return _boxes
  for signature, walk in WALKS.items():
    if head.startswith(signature):
      return walk
  for size, at in TS_PACKETS:
    if len(head) > 3 * size + at and all(head[n * size + at] == 0x47 for n in range(4)):
      return lambda file, length: length % size > 0
  return None


def _read(file: BinaryIO, at: int, size: int) -> bytes:
  file.seek(at)
  found = file.read(size)
  if len(found) < size:
    raise _Ends
  return found


def _boxes(file: BinaryIO, length: int) -> bool:
  """ISO base media and QuickTime: size and kind; a moof is followed by its pictures."""
  at, kind = 0, b""
  while at < length:
    head = _read(file, at, 8)
    size, kind = int.from_bytes(head[:4], "big"), head[4:]
    if size == 1:
      size = int.from_bytes(_read(file, at + 8, 8), "big")
    if size == 0 or (size < 8 and not kind.strip(b"\0")):  # up to the end; padding
      return False
    at += max(size, 8)
  return at > length or kind == b"moof"


def _elements(file: BinaryIO, length: int) -> bool:
  """EBML: number, size and contents; one of unknown size, as of a live stream, is gone into."""
  at = 0
  while at < length:
    number, at = _vint(file, at, keep_marker=True)
    size, behind = _vint(file, at)
    unknown = size == (1 << 7 * (behind - at)) - 1
    at = behind
    if unknown and number not in (SEGMENT, CLUSTER):
      return False  # nothing that is known here
    at += 0 if unknown else size
  return at > length


def _vint(file: BinaryIO, at: int, *, keep_marker: bool = False) -> tuple[int, int]:
  """A number of as many bytes as its first one has zeros in front, and where it ends."""
  first = _read(file, at, 1)[0]
  width = 9 - first.bit_length()
  if width > 8:
    return (1 << 7) - 1, at + 1  # no EBML: of unknown size
  value = int.from_bytes(_read(file, at, width), "big")
  return value if keep_marker else value - (1 << 7 * width), at + width


def _riff(file: BinaryIO, length: int) -> bool:
  """AVI and WebP: chunks of kind and size, one behind the other where an AVI is large."""
  at = 0
  while length - at >= 12:
    head = _read(file, at, 8)
    size = int.from_bytes(head[4:], "little")
    if head[:4] != b"RIFF" or size in (0, 0xFFFFFFFF):  # what comes behind; a length that was never filled in
      return False
    at += 8 + size
  return at > length


def _pages(file: BinaryIO, length: int) -> bool:
  """Ogg: pages of at most 255 segments, the last of which ends a stream."""
  at, ended = 0, False
  while at < length:
    head = _read(file, at, 27)
    if head[:4] != b"OggS":
      return False
    ended = bool(head[5] & 4)
    at += 27 + head[26] + sum(_read(file, at + 27, head[26]))
  return at > length or not ended


def _tags(file: BinaryIO, length: int) -> bool:
  """FLV: tags of 11 bytes and their data, each with its length behind."""
  at = int.from_bytes(_read(file, 5, 4), "big") + 4
  while at < length:
    at += 15 + int.from_bytes(_read(file, at, 11)[1:4], "big")
  return at > length


def _objects(file: BinaryIO, length: int) -> bool:
  """ASF: 16 bytes of kind, size and contents."""
  at = 0
  while at < length:
    size = int.from_bytes(_read(file, at, 24)[16:], "little")
    if size < 24:  # a length that was never filled in
      return False
    at += size
  return at > length


def _packs(file: BinaryIO, length: int) -> bool:
  """MPEG-1 and MPEG-2 program streams: packs, and packets with their length."""
  at = 0
  while at < length:
    head = _read(file, at, 4)
    if head[:3] != b"\0\0\1" or head[3] < 0xB9:
      return False
    if head[3] == 0xB9:  # the end
      at += 4
    elif head[3] == 0xBA:
      more = _read(file, at + 4, 10) if _read(file, at + 4, 1)[0] >> 6 == 1 else None
      at += 12 if more is None else 14 + (more[9] & 7)
    else:
      at += 6 + int.from_bytes(_read(file, at + 4, 2), "big")
  return at > length


def _png(file: BinaryIO, length: int) -> bool:
  at = PNG_HEAD
  while True:
    head = _read(file, at, 8)
    at += 12 + int.from_bytes(head[:4], "big")
    if head[4:] == b"IEND":
      return at > length


def _gif(file: BinaryIO, length: int) -> bool:
  def table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0

  def behind_sub_blocks(at: int) -> int:
    while size := _read(file, at, 1)[0]:
      at += 1 + size
    return at + 1

  at = 13 + table(_read(file, 10, 1)[0])
  while True:
    kind = _read(file, at, 1)
    if kind == b"\x21":
      at = behind_sub_blocks(at + 2)
    elif kind == b"\x2c":
      at = behind_sub_blocks(at + 11 + table(_read(file, at + 9, 1)[0]))
    else:
      return False  # the trailer, or no GIF from here on


WALKS = {
  b"\x1a\x45\xdf\xa3": _elements,
  b"GIF8": _gif,
  b"\x89PNG": _png,
  b"RIFF": _riff,
  b"OggS": _pages,
  b"FLV": _tags,
  bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"): _objects,
  b"\0\0\1\xba": _packs,
}
