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
Colour = tuple[int, int, int]  # red, green and blue, 0 to 255
BLACK = (0, 0, 0)
MAX_PIXELS = 1 << 28  # of any one picture: 16384x16384
BAND_PIXELS = (
  1 << 24
)  # pixels in rows that are converted together, so that intermediate results do not take a multiple of the picture's memory
ROUNDING = 1e-3  # seconds: containers round the times of frames, and a clip may later move into a container with finer times
HALF = 0.51  # of a tick: times are rounded to the nearest tick, and computed times may be off slightly
SHORTEST = 0.25  # share of a picture's time on screen that rounding may take


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """One picture, which is converted when its pixels are first asked for, since most pictures of a clip are skipped.

  Attributes:
    time: when it appears, in seconds after the clip's first picture.
    seconds: for which it is shown; 0 for a still that does not say.
    height, width: of its pixels, upright.
    pixel_aspect: width over height of a pixel.
    tick: unit of times in its file, in seconds, to which `time` is rounded.
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
    """The time in seconds at which the next picture appears, according to the file."""
    return self.time + self.seconds

  @property
  def until(self) -> float:
    """The time in seconds before which this picture is meant. Asking for n / fps gives frame n, however the file rounds."""
    return self.end - min(max(ROUNDING, HALF * self.tick), SHORTEST * self.seconds)

  def fitted(self, height: int, width: int, *, aspect: float = 0.0) -> np.ndarray:
    """uint8 [height, width, 3], cut and resized as ivid.media.fit does."""
    return fit(self.pixels, height, width, aspect=aspect, pixel_aspect=self.pixel_aspect)


@dataclasses.dataclass(frozen=True)
class BrokenOff:
  """Marks the end of a clip whose file is truncated and does not state its length; has the seconds that are there."""

  seconds: float


def check_size(width: int, height: int, name: str) -> None:
  """Raises UserError for a picture of more than MAX_PIXELS; the header suffices for this."""
  if width * height > MAX_PIXELS:
    raise UserError(f"{name} has pictures of {width}x{height}: expected at most {MAX_PIXELS} pixels, such as 16384x16384")


def bands(height: int, width: int) -> Iterator[slice]:
  """Slices of a picture's rows with about BAND_PIXELS pixels each."""
  rows = max(1, BAND_PIXELS // max(1, width))
  return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def over(rgba: np.ndarray, background: Colour) -> np.ndarray:
  """Composites uint8 [H, W, 4] with straight alpha over a colour."""
  made = np.empty((*rgba.shape[:2], 3), np.uint8)
  for rows in bands(*rgba.shape[:2]):
    alpha = rgba[rows, :, 3:].astype(np.uint32)
    made[rows] = (rgba[rows, :, :3] * alpha + np.array(background, np.uint32) * (255 - alpha) + 127) // 255
  return made
