"""One picture of a clip or a still, with its time."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator

import numpy as np

from ivid.media.fit import fit
from ivid.spec.errors import UserError

Source = str | os.PathLike[str] | bytes  # a file's path, or its bytes
Colour = tuple[int, int, int]  # red, green and blue of 255
BLACK = (0, 0, 0)
MAX_PIXELS = 1 << 28  # of one picture, whatever it is of: 16384x16384
BAND_PIXELS = 1 << 24  # of a picture's rows that are converted together, so that what lies between takes no multiple of its memory
ROUNDING = 1e-3  # seconds: containers round the times of frames, also before a clip comes into one that counts finer
HALF = 0.51  # of a tick: times are rounded to the nearest, and computed ones may be off by a hair
SHORTEST = 0.25  # of a picture's time on screen: what rounding may take of it


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """One picture, converted when its pixels are first asked for: most of a clip's are passed over.

  Attributes:
    time: seconds after the clip's first picture at which it appears.
    seconds: for which it is shown; 0 of a still that does not say.
    height, width: of its pixels, upright.
    pixel_aspect: width over height of a pixel.
    tick: seconds that its file counts times in: `time` is rounded to them.
  """

  time: float
  seconds: float
  height: int
  width: int
  pixel_aspect: float
  make: Callable[[], np.ndarray]
  tick: float = 0.0

  @functools.cached_property
  def pixels(self) -> np.ndarray:
    """uint8 [H, W, 3], upright."""
    return np.ascontiguousarray(self.make())

  @property
  def end(self) -> float:
    """Seconds at which the next one appears, as the file has it."""
    return self.time + self.seconds

  @property
  def until(self) -> float:
    """Seconds before which it is the one that is meant: frame n of a clip is what is asked for at n / fps, however its file rounds."""
    return self.end - min(max(ROUNDING, HALF * self.tick), SHORTEST * self.seconds)

  def fitted(self, height: int, width: int, *, aspect: float = 0.0) -> np.ndarray:
    """uint8 [height, width, 3], cut and resized as ivid.media.fit does."""
    return fit(self.pixels, height, width, aspect=aspect, pixel_aspect=self.pixel_aspect)


@dataclasses.dataclass(frozen=True)
class BrokenOff:
  """The end of a clip whose file was cut and does not say how long it was: seconds of it that are there."""

  seconds: float


def check_size(width: int, height: int, name: str) -> None:
  """Raises UserError: a picture of more than MAX_PIXELS, for which its header suffices."""
  if width * height > MAX_PIXELS:
    raise UserError(f"{name} has pictures of {width}x{height}: expected at most {MAX_PIXELS} pixels, such as 16384x16384")


def bands(height: int, width: int) -> Iterator[slice]:
  """Rows of a picture, so many at a time that they have about BAND_PIXELS."""
  rows = max(1, BAND_PIXELS // max(1, width))
  return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def over(rgba: np.ndarray, background: Colour) -> np.ndarray:
  """uint8 [H, W, 4], its colours not multiplied, over a colour."""
  made = np.empty((*rgba.shape[:2], 3), np.uint8)
  for rows in bands(*rgba.shape[:2]):
    alpha = rgba[rows, :, 3:].astype(np.uint32)
    made[rows] = (rgba[rows, :, :3] * alpha + np.array(background, np.uint32) * (255 - alpha) + 127) // 255
  return made
