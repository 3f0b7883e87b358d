"""Writes GIFs block by block, because Pillow would merge equal frames, and the clip would be read back shorter."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from typing import IO, cast

import numpy as np
from PIL import GifImagePlugin, Image

from ivid.media.pictures import parse_rate
from ivid.spec.errors import UserError

TICKS = 100  # a GIF counts hundredths of a second
RATE = b"IVIDRATE1.0"  # name of the block with the exact rate, which hundredths of a second cannot express
LONGEST_RATE = 30  # characters
FASTEST = 50  # players show frames shorter than two hundredths for ten hundredths


def write(path: os.PathLike[str], clip: np.ndarray, rate: Fraction, *, comment: str, crf: int | None) -> None:
  """Writes an endless GIF. Frame i starts at round(100 i / rate) hundredths, and holds the changed rectangle with its own palette."""
  if rate > FASTEST:
    raise UserError(f"cannot write {float(rate):g} frames a second as .gif: expected at most {FASTEST}")
  frames, height, width, _ = clip.shape
  ticks = [round(i * TICKS / rate) for i in range(frames + 1)]
  with open(path, "wb") as file:
    file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0))
    file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # repeat for ever
    file.write(b"\x21\xff\x0b" + RATE + _sub_blocks(str(rate).encode("ascii")))
    if comment:
      file.write(b"\x21\xfe" + _sub_blocks(comment.encode("ascii")))
    for i, picture in enumerate(clip):
      top, bottom, left, right = _changed(clip[i - 1], picture) if i else (0, height, 0, width)
      image = _palette_image(picture[top:bottom, left:right])
      milliseconds = (ticks[i + 1] - ticks[i]) * 1000 // TICKS
      file.write(b"".join(GifImagePlugin.getdata(image, (left, top), duration=milliseconds, disposal=1, include_color_table=True)))
    file.write(b"\x3b")


def rate_of(image: Image.Image) -> Fraction:
  """The frames per second that `write` wrote into an opened picture; 0 if there are none."""
  name, at = image.info.get("extension", (b"", 0)) if image.format == "GIF" else (b"", 0)
  if name != RATE:
    return Fraction(0)
  file = cast("IO[bytes]", cast("GifImagePlugin.GifImageFile", image).fp)
  file.seek(at)
  text = file.read(1 + LONGEST_RATE)
  return parse_rate(text[1 : 1 + text[0]].decode("ascii", "replace")) or Fraction(0) if text else Fraction(0)


def _changed(before: np.ndarray, after: np.ndarray) -> tuple[int, int, int, int]:
  """Top, bottom, left and right of the difference; one pixel if there is none, because a frame cannot be empty."""
  differs = (before != after).any(axis=-1)
  if not differs.any():
    return 0, 1, 0, 1
  rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
  return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _palette_image(picture: np.ndarray) -> Image.Image:
  """`picture` with a palette of at most 256 colours: its own if they suffice, otherwise those of a median cut."""
  codes = picture.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
  colours, indices = np.unique(codes, return_inverse=True)
  if len(colours) > 256:
    return Image.fromarray(picture).quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
  image = Image.fromarray(indices.reshape(codes.shape).astype(np.uint8), mode="P")
  image.putpalette(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1).astype(np.uint8).tobytes())
  return image


def _sub_blocks(data: bytes) -> bytes:
  """GIF data: pieces of at most 255 bytes, each preceded by its length, and an empty piece at the end."""
  pieces = [data[i : i + 255] for i in range(0, len(data), 255)]
  return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\x00"
