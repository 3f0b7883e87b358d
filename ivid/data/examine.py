"""Whether a file can be used, what it shows, and the bytes that are stored."""

from __future__ import annotations

import dataclasses
import io
import re
from fractions import Fraction

import numpy as np
from PIL import Image

from ivid.media import decode
from ivid.media.videos import encode_mp4
from ivid.spec.errors import UserError
from ivid.spec.prepare import PrepareSpec

JPEG_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Facts:
  """Facts about the contents of a file.

  Attributes:
    frames, seconds: 1 and 0 for an image.
    fps: mean frames per second; 0 for an image.
    height, width: of the upright picture, in square pixels.
  """

  frames: int
  seconds: float
  fps: float
  height: int
  width: int

  @property
  def is_image(self) -> bool:
    return self.frames == 1


def examine(media: bytes, name: str) -> Facts:
  """Decodes the whole file. A truncated file is refused, because its caption may describe what is missing.

  Raises:
    UserError: it cannot be read to its end.
  """
  if not media:
    raise UserError(f"{name} is empty")
  count, end, first = 0, 0.0, None
  for picture in decode.pictures(media, name=name, strict=True):
    first = first or picture
    end = picture.time + picture.seconds
    count += 1
  height, width = first.height, first.width
  if first.pixel_aspect >= 1:
    width = round(width * first.pixel_aspect)
  else:
    height = round(height / first.pixel_aspect)
  if count == 1:
    return Facts(1, 0.0, 0.0, height, width)
  return Facts(count, end, count / end, height, width)


def unfit(facts: Facts, spec: PrepareSpec) -> str:
  """Why the spec's filters reject the file; empty if they accept it."""
  short, long = sorted((facts.height, facts.width))
  checks = [(short >= spec.min_side, f"{facts.width}x{facts.height} is smaller than --min_side={spec.min_side}")]
  if spec.max_aspect:
    checks.append((long <= spec.max_aspect * short, f"{facts.width}x{facts.height} is longer than --max_aspect={spec.max_aspect:g}"))
  if not facts.is_image:
    for what, value, least, most in (
      ("seconds", facts.seconds, spec.min_seconds, spec.max_seconds),
      ("fps", facts.fps, spec.min_fps, spec.max_fps),
    ):
      checks.append((value >= least, f"{value:.4g} {what}, below --min_{what}={least:g}"))
      checks.append((not most or value <= most, f"{value:.4g} {what}, above --max_{what}={most:g}"))
  return next((reason for holds, reason in checks if not holds), "")


def usable_captions(captions: tuple[str, ...], spec: PrepareSpec) -> tuple[str, ...]:
  """The captions that the spec's filters accept."""
  kept = (text for text in captions if len(text) >= spec.min_characters)
  return tuple(text for text in kept if not (spec.caption_without and re.search(spec.caption_without, text)))


def encoded(media: bytes, facts: Facts, spec: PrepareSpec, background: tuple[int, int, int]) -> tuple[bytes, Facts]:
  """The bytes as they are, or encoded again for spec.max_side, with the facts about them."""
  if not spec.max_side or (facts.is_image and max(facts.height, facts.width) <= spec.max_side):
    return media, facts
  scale = min(1.0, spec.max_side / max(facts.height, facts.width))
  even = 1 if facts.is_image else 2  # H.264 requires even sides
  height, width = (max(even, round(side * scale / even) * even) for side in (facts.height, facts.width))
  smaller = dataclasses.replace(facts, height=height, width=width)
  shown = ((p.time, p.seconds, p.fitted(height, width)) for p in decode.pictures(media, background=background))
  if facts.is_image:
    return _encoded_image(media, next(shown)[2]), smaller
  return encode_mp4(shown, Fraction(facts.fps).limit_denominator(decode.MAX_DENOMINATOR)), smaller


def _encoded_image(media: bytes, pixels: np.ndarray) -> bytes:
  """Encodes as PNG if the file was a PNG, else as JPEG."""
  file = io.BytesIO()
  if media.startswith(b"\x89PNG"):
    Image.fromarray(pixels).save(file, format="PNG")
  else:
    Image.fromarray(pixels).save(file, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
  return file.getvalue()
