"""Pictures of any clip or still in order of time, upright and in BT.709: containers by PyAV, stills and animated images by Pillow."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from ivid.media.containers import of_container, open_container
from ivid.media.picture import BLACK, Colour, Picture, Source
from ivid.media.stills import is_image, of_image

MAX_DENOMINATOR = 1001  # of a frame rate: 24000/1001 and its like are exact


def pictures(source: Source, *, start: float = 0.0, background: Colour = BLACK, name: str = "") -> Iterator[Picture]:
  """Pictures of a clip from the one on that is shown at `start` seconds, or the one of a still.

  A file that does not say how long its frames last has them as long as the one before.

  Args:
    source: path of a file, or its bytes.
    background: what shows through where a picture is transparent.
    name: what errors call it; empty: the path.

  Raises:
    UserError: nothing that can be read, a file that breaks off, or no picture in it.
  """
  name = name or (f"a file of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source))
  return of_image(source, background, name) if is_image(source) else of_container(source, start, background, name)


def read(path: str | os.PathLike, max_frames: int | None) -> tuple[np.ndarray, Fraction]:
  """Frames uint8 [T, H, W, 3] and frames per second. Errors as of `pictures`."""
  found = list(itertools.islice(pictures(path), max_frames))
  stated, resolution = Fraction(0), Fraction(1, 100)  # of GIF
  if not is_image(path):
    with open_container(path, os.fspath(path)) as container:
      stream = container.streams.video[0]
      stated, resolution = Fraction(stream.average_rate or 0), stream.time_base
  times = [picture.time for picture in found]
  seconds = found[-1].time + found[-1].seconds
  if not stated and seconds:
    stated = Fraction(len(found) / seconds).limit_denominator(MAX_DENOMINATOR)
  return np.stack([picture.pixels for picture in found]), _rate(times, stated, resolution)


def _rate(times: list[float], stated: Fraction, resolution: Fraction) -> Fraction:
  """Frames per second: the simplest rate that explains the frames' times to the container's resolution."""
  if len(times) < 2 or times[-1] <= times[0]:
    return stated or Fraction(1)
  mean = Fraction((len(times) - 1) / (times[-1] - times[0])).limit_denominator(MAX_DENOMINATOR)
  for rate in (stated or mean, Fraction(round(mean)), Fraction(round(mean * 1001), 1001)):
    if rate > 0 and all(abs(t - times[0] - i / rate) <= 1.01 * resolution for i, t in enumerate(times)):
      return rate
  return mean
