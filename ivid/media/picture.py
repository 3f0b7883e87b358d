"""One picture of a clip or a still, with its time."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable

import numpy as np

from ivid.media.fit import fit

Source = str | os.PathLike | bytes  # a file's path, or its bytes
Colour = tuple[int, int, int]  # red, green and blue of 255
BLACK = (0, 0, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """One picture, converted when its pixels are first asked for: most of a clip's are passed over.

  Attributes:
    time: seconds after the clip's first picture at which it appears.
    seconds: for which it is shown; 0 of a still that does not say.
    height, width: of its pixels, upright.
    pixel_aspect: width over height of a pixel.
  """

  time: float
  seconds: float
  height: int
  width: int
  pixel_aspect: float
  make: Callable[[], np.ndarray]

  @functools.cached_property
  def pixels(self) -> np.ndarray:
    """uint8 [H, W, 3], upright."""
    return np.ascontiguousarray(self.make())

  def fitted(self, height: int, width: int, *, aspect: float = 0.0) -> np.ndarray:
    """uint8 [height, width, 3], cut and resized as ivid.media.fit does."""
    return fit(self.pixels, height, width, aspect=aspect, pixel_aspect=self.pixel_aspect)


def over(rgba: np.ndarray, background: Colour) -> np.ndarray:
  """uint8 [H, W, 4], its colours not multiplied, over a colour."""
  alpha = rgba[..., 3:].astype(np.uint32)
  return ((rgba[..., :3] * alpha + np.array(background, np.uint32) * (255 - alpha) + 127) // 255).astype(np.uint8)
