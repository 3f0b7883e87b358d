"""Pictures of any clip or still in order of time, upright and in BT.709: containers by PyAV, stills and animated images by Pillow."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import numpy as np

from ivid.media.containers import of_container, open_container, video_stream
from ivid.media.picture import BLACK, Colour, Picture, Source
from ivid.media.stills import is_image, of_image, stated_rate
from ivid.spec.errors import UserError

MAX_DENOMINATOR = 1001  # of a frame rate, so that 24000/1001 and similar rates are exact
MAX_BYTES = 1 << 33  # of a clip that is held in memory
TICK = Fraction(1, 100)  # seconds, of GIF


def pictures(source: Source, *, start: float = 0.0, background: Colour = BLACK, name: str = "", strict: bool = False) -> Iterator[Picture]:
  """Yields the pictures of a clip, from the one shown at `start` seconds on, or that of a still. A PNG clip by ivid counts as a clip.

  If a file does not say how long a frame lasts, the frame lasts as long as the previous one. If it is truncated and does not state its
  length (live streams in Matroska and MPEG-TS, fragmented MP4, animations), it ends early, with a warning that says when.

  Args:
    source: path of a file, or its bytes.
    background: what shows through where a picture is transparent.
    name: for errors; empty: the path.
    strict: whether a truncated file is always an error.

  Raises:
    UserError: it cannot be read, is a playlist, has too large pictures or none, or breaks off.
  """
  name = name or (f"a file of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source))
  found = of_image(source, background, name) if is_image(source) else of_container(source, start, background, name)
  for picture in found:
    if isinstance(picture, Picture):
      yield picture
      continue
    said = f"{name} breaks off after {picture.seconds:.4g} s: the rest of the file is missing"
    if strict:
      raise UserError(said)
    warnings.warn(said, stacklevel=2)


def read(path: str | os.PathLike[str], max_frames: int | None) -> tuple[np.ndarray, Fraction]:
  """Frames uint8 [T, H, W, 3], all of the size of the first, and frames per second.

  Raises:
    UserError: as `pictures`; or the clip does not fit into MAX_BYTES.
  """
  frames, times, end = [], [], 0.0
  for picture in itertools.islice(pictures(path), max_frames):
    height, width, _ = frames[0].shape if frames else picture.pixels.shape
    if (len(frames) + 1) * height * width * 3 > MAX_BYTES:
      shown = f"{len(frames)} frames of {width}x{height}"
      raise UserError(f"{path} has more than {shown}, the {MAX_BYTES >> 30} GiB that are held at once: expected a shorter clip")
    frames.append(picture.pixels if (picture.height, picture.width) == (height, width) else picture.fitted(height, width))
    times.append(picture.time)
    end = picture.end
  return np.stack(frames), _rate(times, end, *_stated(path))


def _stated(path: str | os.PathLike[str]) -> tuple[Fraction, Fraction]:
  """The frames per second that a file states, or 0, and the unit of its times in seconds."""
  if is_image(path):
    return stated_rate(path), TICK
  with open_container(path, os.fspath(path)) as container:
    stream = video_stream(container)
    return Fraction(stream.average_rate or 0), cast("Fraction", stream.time_base)  # every stream of pictures has one


def _rate(times: list[float], end: float, stated: Fraction, tick: Fraction) -> Fraction:
  """Frames per second: the stated rate if it explains the times to a tick, else the simplest one that does, else the mean."""
  if len(times) < 2 or times[-1] <= times[0]:
    return stated or (Fraction(1 / end).limit_denominator(MAX_DENOMINATOR) if end else Fraction(1))
  after = np.arange(1, len(times))
  passed = np.subtract(times[1:], times[0])
  least, most = passed - 1.01 * float(tick), passed + 1.01 * float(tick)
  low, high = (after / most).max(), min([np.inf, *(after[least > 0] / least[least > 0])])
  mean = len(after) / passed[-1]
  simple = (Fraction(round(mean * n), n) for n in range(1, MAX_DENOMINATOR + 1))
  found = (rate for rate in itertools.chain([stated], simple) if rate > 0 and low <= rate <= high)
  return next(found, Fraction(mean).limit_denominator(MAX_DENOMINATOR))
