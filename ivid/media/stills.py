"""Stills and animations by Pillow which, unlike FFmpeg, knows animated WebP and the orientation and profiles of stills.

Clips that ivid wrote as PNG, one picture with all frames, are read here, too.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, ImageSequence, UnidentifiedImageError

from ivid.media import gif, pictures
from ivid.media.cut import is_cut, wrong_chunk
from ivid.media.picture import BrokenOff, Colour, Picture, Source, bands, over
from ivid.spec.errors import UserError

SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"GIF8", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")  # first bytes
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # Pillow's names
DEFAULT_SECONDS = 0.1  # for a frame of an animation that says 0, as in browsers
TICKS = {"GIF": 0.01}  # unit of times, in seconds
TICK = 0.001  # for the other formats


def is_image(source: Source) -> bool:
  """Whether the first bytes are those of a still or an animation that Pillow reads."""
  if isinstance(source, bytes):
    head = source[:16]
  else:
    try:
      with open(source, "rb") as file:
        head = file.read(16)
    except OSError:
      return False
  return head.startswith(SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] in (b"ftypavif", b"ftypavis")


def of_image(source: Source, background: Colour, name: str) -> Iterator[Picture | BrokenOff]:
  """Pictures of a still (one), of an animation, or of a clip as PNG. Raises as ivid.media.decode.pictures."""
  end = None
  with contextlib.closing(_frames_of_image(source, background, name)) as found:
    while True:
      try:
        picture = next(found, None)
      except UserError:
        raise
      except UnidentifiedImageError:
        raise UserError(f"{name} is no picture that can be read") from None
      except Exception as error:  # each of Pillow's decoders has errors of its own
        if end is None or not is_cut(source):
          raise UserError(f"{name} is damaged: {error or type(error).__name__}") from None
        picture = BrokenOff(end)  # the file holds a part of the next frame
      if picture is None:
        return
      yield picture
      if isinstance(picture, BrokenOff):
        return
      end = picture.end


def stated_rate(path: str | os.PathLike[str]) -> Fraction:
  """The frames per second that ivid wrote into a GIF or PNG; 0 if there are none. Raises as `of_image`."""
  with pictures.opened(path, os.fspath(path)) as image:
    layout = pictures.layout_of(image, os.fspath(path))
    return layout.rate if layout else gif.rate_of(image)


def _frames_of_image(source: Source, background: Colour, name: str) -> Generator[Picture | BrokenOff]:
  with pictures.opened(source, name) as image:
    if image.format == "PNG" and (chunk := wrong_chunk(source)):
      raise UserError(f"{name} is damaged: its {chunk} is not what was written")  # Pillow accepts pixels without a checksum
    layout = pictures.layout_of(image, name)
    if layout:
      yield from pictures.cells(image, layout)
      return
    # Other formats have second pictures too, such as depth in a phone's JPEG, or further pages.
    animated = image.format in ANIMATED
    moves = animated and _moves(source, name)
    time = 0.0
    for frame in ImageSequence.Iterator(image) if moves else (image,):
      pixels = _flat(frame, background)  # first, because some formats only tell a frame's duration together with its pixels
      seconds = frame.info.get("duration", 0) / 1000 or (DEFAULT_SECONDS if moves else 0.0)
      tick = TICKS.get(image.format or "", TICK) if moves else 0.0
      height, width = pixels.shape[:2]
      yield Picture(time, seconds, height, width, 1.0, functools.partial(np.asarray, pixels), tick)
      time += seconds
    if animated and is_cut(source):
      yield BrokenOff(time)


def _moves(source: Source, name: str) -> bool:
  """Whether an animation has several frames; this includes one that is truncated in a later frame."""
  with pictures.opened(source, name) as image:  # opened separately, because it cannot be used after an error
    try:
      return getattr(image, "n_frames", 1) > 1
    except Exception:  # each of Pillow's decoders has errors of its own
      return True


def _flat(image: Image.Image, background: Colour) -> np.ndarray:
  """uint8 [H, W, 3] in sRGB, upright, converted one band of rows at a time."""
  if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # otherwise it would be copied
    image = ImageOps.exif_transpose(image)
  if image.mode == "F":
    raise ValueError("gray values without a scale")
  image.load()
  width, height = image.size
  made = np.empty((height, width, 3), np.uint8)
  to_srgb = _to_srgb(image)
  for rows in bands(height, width):
    whole = rows == slice(0, height)
    band = image if whole else image.crop((0, rows.start, width, rows.stop))
    if image.mode.startswith("I"):  # 16-bit gray, of which Pillow would clip values above 255
      made[rows] = (np.clip(np.asarray(band), 0, 65535) // 257)[..., None]
    elif image.has_transparency_data:
      made[rows] = over(np.asarray(to_srgb(band).convert("RGBA")), background)
    else:
      made[rows] = np.asarray(to_srgb(band).convert("RGB"))
  return made


def _to_srgb(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
  """A function that converts parts of the image to sRGB by its embedded profile."""
  profile = image.info.get("icc_profile")
  if profile and image.mode in ("RGB", "RGBA", "CMYK", "L"):
    with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a broken profile is ignored
      mode = "RGBA" if image.has_transparency_data else "RGB"
      transform = ImageCms.buildTransform(io.BytesIO(profile), ImageCms.createProfile("sRGB"), image.mode, mode)
      return functools.partial(ImageCms.applyTransform, transform=transform)  # pyright: ignore[reportReturnType]  it gives None only when it changes the picture in place
  return lambda part: part
