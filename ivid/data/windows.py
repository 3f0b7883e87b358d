"""The frames of an encoded clip at given times and at a given size, for the views of training and for checks."""

from __future__ import annotations

import numpy as np

from ivid.media import decode
from ivid.media.picture import BLACK, ROUNDING, Colour


def frames_at(media: bytes, times: np.ndarray, height: int, width: int, *, background: Colour = BLACK, name: str = "") -> np.ndarray:
  """uint8 [T, height, width, 3]: the picture shown at each of `times` [T] (seconds, in any order); after the end, the last picture.

  Only one picture at a time is in memory at full size. Decoding begins at a key frame before the first time and ends at the last.

  Raises:
    UserError: the file cannot be read, or is damaged on the way.
  """
  order = np.argsort(times, kind="stable")
  made = np.empty((len(times), height, width, 3), np.uint8)
  done = 0
  for picture in decode.pictures(media, start=max(0.0, float(times[order[0]])), background=background, name=name):
    shown = [n for n in order[done:] if times[n] < picture.until]
    if shown:
      made[shown] = picture.fitted(height, width)
      done += len(shown)
    if done == len(times):
      return made
    last = picture
  made[order[done:]] = last.fitted(height, width)
  return made


def looped(times: np.ndarray, seconds: float) -> np.ndarray:
  """Times [T] in a clip that starts again after so many seconds."""
  return np.mod(times, max(seconds, ROUNDING))
