"""Pictures as PNG, and clips as one PNG of all frames."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import re
import threading
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ivid.media.files import from_comment, to_comment, whole_file
from ivid.media.picture import MAX_PIXELS, Picture, Source, check_size
from ivid.spec.errors import UserError

GRID_COLUMNS = 8
COMMENT, LAYOUT = "Comment", "Clip"  # text chunks: metadata, and "frames height width fps" of a clip
LAYOUT_TEXT = re.compile(r"(\d{1,9}) (\d{1,9}) (\d{1,9}) (\S{1,30})", re.ASCII)
RATE_TEXT = re.compile(r"\d{1,9}(/\d{1,9})?", re.ASCII)
RATE_TERM = 10**9 - 1  # the largest term of a rate that fits
_PILLOW = threading.Lock()  # guards Pillow's limit, which all threads share
SHOWN = 60  # characters of an invalid layout in errors


@dataclasses.dataclass(frozen=True)
class Layout:
  """The layout of a clip as PNG: its shape and frames per second."""

  frames: int
  height: int
  width: int
  rate: Fraction


def parse_rate(text: str) -> Fraction | None:
  """Reads frames per second as `str` writes a Fraction; None if the text is something else."""
  if not RATE_TEXT.fullmatch(text):
    return None
  over, _, under = text.partition("/")
  return Fraction(int(over), int(under or 1)) if int(over) and int(under or 1) else None


def write_png(path: str | os.PathLike[str], picture: np.ndarray, metadata: dict | None = None) -> None:
  """Writes `picture` uint8 [H, W, 3]; the file appears whole or not at all.

  Raises:
    UserError: the array is wrong, or the folder cannot be written.
  """
  picture = np.asarray(picture)
  if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
    raise UserError(f"cannot write {path}: picture is {picture.dtype} {list(picture.shape)}, expected uint8 [H, W, 3]")
  with whole_file(path) as temporary:
    _save(temporary, picture, {COMMENT: to_comment(metadata)})


def write_grid(path: os.PathLike[str], clip: np.ndarray, rate: Fraction, *, comment: str, crf: int | None) -> None:
  """All frames in rows of GRID_COLUMNS, without gaps, the last row filled with black; `crf` has no meaning here."""
  frames, height, width, _ = clip.shape
  check_grid(path, frames, height, width)
  columns, rows = min(frames, GRID_COLUMNS), _rows(frames)
  cells = np.zeros((rows * columns, height, width, 3), np.uint8)
  cells[:frames] = clip
  picture = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
  _save(path, picture, {COMMENT: comment, LAYOUT: f"{frames} {height} {width} {rate}"})


def check_grid(path: str | os.PathLike[str], frames: int, height: int, width: int) -> None:
  """Raises UserError if there are too many frames of that size for one picture."""
  pixels = _rows(frames) * height * min(frames, GRID_COLUMNS) * width
  if pixels > MAX_PIXELS:
    shown = f"{frames} frames of {width}x{height}"
    raise UserError(f"cannot write {path}: {shown} are one picture of {pixels} pixels: expected at most {MAX_PIXELS}, or an .mp4")


def _rows(frames: int) -> int:
  return -(-frames // GRID_COLUMNS)


def layout_of(image: Image.Image, name: str) -> Layout | None:
  """The layout that `write_grid` stored in a picture; None if there is none.

  Raises:
    UserError: the entry is something else, or does not fit the picture.
  """
  text = image.info.get(LAYOUT) if image.format == "PNG" else None
  if text is None:
    return None
  numbers = LAYOUT_TEXT.fullmatch(text) if isinstance(text, str) else None
  if numbers is None:
    raise UserError(f"{name}: its layout is {str(text)[:SHOWN]!r}: expected frames, height, width and rate, such as '16 24 40 3'")
  frames, height, width = (int(number) for number in numbers.groups()[:3])
  rate = parse_rate(numbers[4])
  fits = min(frames, height, width) > 0 and image.size == (min(frames, GRID_COLUMNS) * width, _rows(frames) * height)
  if rate is None or not fits:
    raise UserError(f"{name}: its layout is {text!r}, which does not fit its {image.width}x{image.height} pixels")
  return Layout(frames, height, width, rate)


def is_grid(path: str | os.PathLike[str]) -> bool:
  """Whether `write_grid` wrote the picture. Raises as `opened` and `layout_of`."""
  with opened(path, os.fspath(path)) as image:
    return layout_of(image, os.fspath(path)) is not None


def cells(image: Image.Image, layout: Layout) -> Iterator[Picture]:
  """The frames of a clip as PNG."""
  image.load()
  height, width, fps = layout.height, layout.width, float(layout.rate)
  for n in range(layout.frames):
    top, left = n // GRID_COLUMNS * height, n % GRID_COLUMNS * width
    cell = image.crop((left, top, left + width, top + height))
    yield Picture(n / fps, 1 / fps, height, width, 1.0, functools.partial(np.asarray, cell.convert("RGB")))


def read_comment(path: str | os.PathLike[str]) -> dict | None:
  """Metadata of a PNG (text chunk) or GIF (comment block)."""
  with opened(path, os.fspath(path)) as image:
    try:
      image.load()
    except Exception as error:  # each of Pillow's decoders has errors of its own
      raise UserError(f"{path} is no picture that can be read: {error or type(error).__name__}") from None
    comment = image.info.get(COMMENT, image.info.get("comment"))
  return from_comment(comment.decode("ascii", "replace") if isinstance(comment, bytes) else comment)


@contextlib.contextmanager
def opened(source: Source, name: str) -> Iterator[Image.Image]:
  """Opens a picture; its header is read, and its size checked against the memory.

  Raises:
    UserError: it is not a picture, or is too large.
  """
  file = io.BytesIO(source) if isinstance(source, bytes) else source
  with _PILLOW:
    # A clip of 128 frames of 1280x768 is one picture, which is larger than Pillow's limit for warnings.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
      image = Image.open(file)
    except UnidentifiedImageError:
      raise UserError(f"{name} is no picture that can be read") from None
    except (OSError, ValueError, SyntaxError) as error:
      raise UserError(f"{name} is no picture that can be read: {error}") from None
    finally:
      Image.MAX_IMAGE_PIXELS = limit
  with image:
    check_size(*image.size, name)
    yield image


def _save(path: os.PathLike[str], picture: np.ndarray, texts: dict[str, str]) -> None:
  info = PngImagePlugin.PngInfo()
  for key, text in texts.items():
    if text:
      info.add_text(key, text)
  Image.fromarray(picture).save(path, format="PNG", pnginfo=info)
