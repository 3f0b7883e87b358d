"""Pictures as PNG, and clips as one PNG of all frames."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ivid.media.files import from_comment, to_comment, whole_file
from ivid.spec.errors import UserError

GRID_COLUMNS = 8
COMMENT, LAYOUT = "Comment", "Clip"  # text chunks: metadata, and "frames height width fps" of a clip


def write_png(path: str | os.PathLike, picture: np.ndarray, metadata: dict | None = None) -> None:
  """Writes `picture` uint8 [H, W, 3]; the file appears whole or not at all.

  Raises:
    UserError: wrong array, unwritable folder.
  """
  picture = np.asarray(picture)
  if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
    raise UserError(f"cannot write {path}: picture is {picture.dtype} {list(picture.shape)}, expected uint8 [H, W, 3]")
  with whole_file(path) as temporary:
    _save(temporary, picture, {COMMENT: to_comment(metadata)})


def write_grid(path: os.PathLike, clip: np.ndarray, rate: Fraction, *, comment: str, crf: int | None) -> None:
  """All frames in rows of GRID_COLUMNS, without gaps, the last row filled with black; `crf` has no meaning here."""
  frames, height, width, _ = clip.shape
  columns = min(frames, GRID_COLUMNS)
  rows = -(-frames // columns)
  cells = np.zeros((rows * columns, height, width, 3), np.uint8)
  cells[:frames] = clip
  picture = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
  _save(path, picture, {COMMENT: comment, LAYOUT: f"{frames} {height} {width} {rate}"})


def is_grid(path: str | os.PathLike) -> bool:
  """Whether `write_grid` wrote that PNG; False for any other picture.

  Raises:
    UserError: no picture at all.
  """
  with _open(path) as image:
    return LAYOUT in image.info


def read_grid(path: str | os.PathLike) -> tuple[np.ndarray, Fraction]:
  """The clip and rate that `write_grid` wrote.

  Raises:
    UserError: another kind of picture.
  """
  with _open(path) as image:
    layout = image.info.get(LAYOUT)
    picture = np.asarray(image.convert("RGB"))
  if layout is None:
    raise UserError(f"{path} is a picture, not a clip: expected a .png that ivid wrote, or .mp4, .webm, .gif")
  *sizes, rate = layout.split()
  frames, height, width = map(int, sizes)
  rows, columns = picture.shape[0] // height, picture.shape[1] // width
  cells = picture.reshape(rows, height, columns, width, 3).swapaxes(1, 2).reshape(rows * columns, height, width, 3)
  return cells[:frames], Fraction(rate)


def read_comment(path: str | os.PathLike) -> dict | None:
  """Metadata of a PNG (text chunk) or GIF (comment block)."""
  with _open(path) as image:
    image.load()
    comment = image.info.get(COMMENT, image.info.get("comment"))
  return from_comment(comment.decode("ascii", "replace") if isinstance(comment, bytes) else comment)


@contextlib.contextmanager
def _open(path: str | os.PathLike) -> Iterator[Image.Image]:
  """The picture, however large: a clip of 128 frames of 1280x768 is one; Pillow's limit is against files from strangers on a server."""
  limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
  try:
    with Image.open(path) as image:
      yield image
  except (UnidentifiedImageError, OSError) as error:
    raise UserError(f"{path} is no picture that can be read{'' if isinstance(error, UnidentifiedImageError) else f': {error}'}") from None
  finally:
    Image.MAX_IMAGE_PIXELS = limit


def _save(path: os.PathLike, picture: np.ndarray, texts: dict[str, str]) -> None:
  info = PngImagePlugin.PngInfo()
  for key, text in texts.items():
    if text:
      info.add_text(key, text)
  Image.fromarray(picture).save(path, format="PNG", pnginfo=info)
