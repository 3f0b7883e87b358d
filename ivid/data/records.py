"""One prepared clip as a record: a dictionary of plain values, the clip as compressed bytes. What builders write and sources read."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ivid.spec.errors import UserError

CLIP = "clip"  # bytes: zlib of the uint8 frames, in order [T, H, W, 3]
SHAPE = "shape"  # int32 [4]: T, H, W, 3
FPS = "fps"
CAPTION = "caption"
IMAGE_CAPTION = "image_caption"  # of a single frame; empty: the caption serves
OBJECTS = "objects"  # int32 [2, 4]: size, colour, shape, motion of moving_shapes; -1 where there is none
BACKGROUND = "background"  # int32, of moving_shapes; -1 elsewhere

# Of what `ivid data prepare --input` writes.
MEDIA = "media"  # bytes of a file that ivid.media.decode reads
CAPTIONS = "captions"  # several: training draws one
FRAMES, SECONDS = "frames", "seconds"  # 1 and 0 of an image
HEIGHT, WIDTH = "height", "width"  # upright, of square pixels
COLOUR = "colour"  # "#rrggbb": what lies behind transparent pictures
SHA256, SOURCE = "sha256", "source"
COLUMNS = "columns"  # the user's own, as text
COMPRESSION = 6


def index_name(split: str) -> str:
  """Of the Parquet file with a row for each record of the split, in order."""
  return f"index-{split}.parquet"


def encode(
  clip: np.ndarray,
  *,
  fps: float,
  caption: str,
  image_caption: str = "",
  objects: np.ndarray | None = None,
  background: int = -1,
) -> dict[str, Any]:
  """The record of `clip` uint8 [T, H, W, 3]."""
  assert clip.dtype == np.uint8 and clip.ndim == 4, (clip.dtype, clip.shape)
  rows = np.full((2, 4), -1, np.int32)
  if objects is not None:
    rows[: len(objects)] = objects
  return {
    CLIP: zlib.compress(np.ascontiguousarray(clip).tobytes(), COMPRESSION),
    SHAPE: np.array(clip.shape, np.int32),
    FPS: np.float32(fps),
    CAPTION: caption,
    IMAGE_CAPTION: image_caption,
    OBJECTS: rows,
    BACKGROUND: np.int32(background),
  }


def clip_of(record: Mapping[str, Any]) -> np.ndarray:
  """Frames uint8 [T, H, W, 3]; of our own records, or of data sets that hold them as a `video` array.

  Raises:
    UserError: neither entry is there.
  """
  if CLIP in record:
    shape = [int(n) for n in record[SHAPE]]
    if len(shape) != 4 or min(shape) < 1 or shape[3] != 3:
      raise UserError(f"a record has a clip of shape {shape}: expected frames, height, width and 3")
    try:
      unpacked = zlib.decompressobj().decompress(record[CLIP], math.prod(shape) + 1)  # no more memory than the shape says
    except zlib.error as error:
      raise UserError(f"a record has a clip that cannot be unpacked: {error}") from None
    if len(unpacked) != math.prod(shape):
      raise UserError(f"a record has a clip of {len(unpacked)} bytes: expected the {math.prod(shape)} of its shape {shape}")
    return np.frombuffer(unpacked, np.uint8).reshape(shape)
  if "video" in record:
    return np.asarray(record["video"], np.uint8)
  raise UserError(f"a record holds {', '.join(sorted(record))}: expected 'clip' (as `ivid data prepare` writes it) or 'video'")


def text_of(record: Mapping[str, Any], name: str) -> str:
  """A text entry, whether the reader gives bytes or str; empty if it is not there.

  Raises:
    UserError: bytes that are no UTF-8.
  """
  value = record.get(name, "")
  try:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
  except UnicodeDecodeError as error:
    wrong = f"byte {value[error.start]:#04x} at place {error.start} of {len(value)}"
    raise UserError(f"a record's {name} is no UTF-8: {wrong}; it begins with {value[:20]!r}") from None
