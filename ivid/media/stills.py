"""Stills and animations by Pillow, which knows animated WebP, and the orientation and profiles of stills, as FFmpeg does not."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Generator, Iterator

import numpy as np
from PIL import Image, ImageCms, ImageOps, ImageSequence, UnidentifiedImageError

from ivid.media.picture import Colour, Picture, Source, over
from ivid.spec.errors import UserError

SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"GIF8", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")  # first bytes
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # what Pillow calls them
DEFAULT_SECONDS = 0.1  # of a frame of an animation that says 0, as browsers show it


def is_image(source: Source) -> bool:
  """Whether its first bytes are those of a still or an animation, which Pillow reads."""
  if isinstance(source, bytes):
    head = source[:16]
  else:
    try:
      with open(source, "rb") as file:
        head = file.read(16)
    except OSError:
      return False
  return head.startswith(SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] in (b"ftypavif", b"ftypavis")


def of_image(source: Source, background: Colour, name: str) -> Iterator[Picture]:
  """Pictures of a still (one) or of an animation. Errors as of ivid.media.decode.pictures."""
  with contextlib.closing(_frames_of_image(source, background)) as found:
    while True:
      try:
        picture = next(found, None)
      except UnidentifiedImageError:
        raise UserError(f"{name} is no picture that can be read") from None
      except Image.DecompressionBombError as error:
        raise UserError(f"{name} is too large a picture: {error}") from None
      except Exception as error:  # each of Pillow's decoders has errors of its own
        raise UserError(f"{name} is damaged: {error or type(error).__name__}") from None
      if picture is None:
        return
      yield picture


def _frames_of_image(source: Source, background: Colour) -> Generator[Picture]:
  with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
    # Other formats have second pictures too, such as depth in a phone's JPEG, or further pages.
    moves = image.format in ANIMATED and getattr(image, "n_frames", 1) > 1
    time = 0.0
    for frame in ImageSequence.Iterator(image) if moves else (image,):
      pixels = _flat(frame, background)  # first, as some formats tell a frame's duration with its pixels alone
      seconds = frame.info.get("duration", 0) / 1000 or (DEFAULT_SECONDS if moves else 0.0)
      yield Picture(time, seconds, *pixels.shape[:2], 1.0, functools.partial(np.asarray, pixels))
      time += seconds


def _flat(image: Image.Image, background: Colour) -> np.ndarray:
  """uint8 [H, W, 3] in sRGB, upright."""
  image = ImageOps.exif_transpose(image)
  if image.mode == "F":
    raise ValueError("gray values without a scale")
  if image.mode.startswith("I"):  # 16 bits of gray; Pillow would cut off what is above 255
    return np.repeat((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8)[..., None], 3, axis=2)
  alpha = image.has_transparency_data
  profile = image.info.get("icc_profile")
  if profile and image.mode in ("RGB", "RGBA", "CMYK", "L"):
    with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a broken profile: as if there were none
      srgb = ImageCms.createProfile("sRGB")
      image = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGBA" if alpha else "RGB")
  return over(np.asarray(image.convert("RGBA")), background) if alpha else np.asarray(image.convert("RGB"))
