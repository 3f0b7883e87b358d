"""Fits a user's clip to a super-resolution stage: resamples it by timestamp, cuts it to the aspect, resizes it, and says what changed."""

from __future__ import annotations

import dataclasses
import math
import os

import numpy as np

from ivid.media.clips import timed_pictures
from ivid.media.fit import cut_size
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError

ROUNDING = 1e-6  # of a timestamp, in frames


@dataclasses.dataclass(frozen=True)
class Entry:
  """A clip that fits a stage.

  Attributes:
    frames: [T, H, W, 3] uint8 with the height, width and rate of the stage's input; T follows from the duration.
    changes: what was done to the user's clip, one phrase per change; empty if the clip fitted.
  """

  frames: np.ndarray
  changes: tuple[str, ...]


def read_entry(
  path: str | os.PathLike[str], want: ClipShape, *, aspect: float = 0.0, max_seconds: float = math.inf, most: int | None = None
) -> Entry:
  """Reads a clip of any size, rate, length and codec. Frame k of the result is the picture shown at k / want.fps seconds.

  Args:
    aspect: width over height to which the clip is cut before it is resized; 0: that of `want`.
    most: number of frames after which reading stops, without a note about the rest.

  Raises:
    UserError: the clip cannot be read, or lasts longer than `max_seconds`.
  """
  aspect = aspect or want.width / want.height
  picked: list[np.ndarray] = []
  shapes, times, used, end, tick = set(), [], 0, 0.0, 0.0
  for picture in timed_pictures(path):
    if most is not None and len(picked) >= most:
      break
    end, tick = picture.end, picture.tick
    if end > max_seconds:
      raise UserError(
        f"{path} lasts longer than the {max_seconds:.3g} s that there is memory for: expected a shorter clip, or an earlier --stop_stage"
      )
    times.append(picture.time)
    missing = math.ceil(picture.until * want.fps - ROUNDING) - len(picked)  # until the next picture appears
    if missing > 0 or not picked:
      shapes.add((picture.height, picture.width, picture.pixel_aspect))
      picked.extend([picture.fitted(want.height, want.width, aspect=aspect)] * max(1, missing))
      used += 1
  if most is not None and len(picked) >= most:
    return Entry(np.stack(picked[:most]), tuple(_changes(want, aspect, shapes)))
  frames = max(1, round(end * want.fps))
  picked.extend(picked[-1:] * (frames - len(picked)))
  clip = np.stack(picked[:frames])
  return Entry(clip, tuple(_changes(want, aspect, shapes) + _resampled(want, frames, times, end, tick, len(times) - used)))


def _changes(want: ClipShape, aspect: float, shapes: set[tuple[int, int, float]]) -> list[str]:
  """Describes how pictures of these heights, widths and pixel aspects were brought to the wanted size."""
  changes = []
  for height, width, pixel_aspect in sorted(shapes):
    if (height, width, pixel_aspect) == (want.height, want.width, 1.0):
      continue
    h, w = map(round, cut_size(height, width, aspect, pixel_aspect))
    cut = [f"{height - h} of {height} rows"] * (h < height) + [f"{width - w} of {width} columns"] * (w < width)
    if cut:
      changes.append(f"cut {' and '.join(cut)} to an aspect of {aspect:.4g}")
    if (h, w) != (want.height, want.width):
      changes.append(f"resized {w}x{h} to {want.width}x{want.height}")
  return changes


def _resampled(want: ClipShape, frames: int, times: list[float], end: float, tick: float, skipped: int) -> list[str]:
  """Describes how pictures at these times became so many frames; empty if their rate was right to within a tick of the file."""
  slack = max(2e-3, 1.01 * tick)
  gaps = np.diff(times)
  steady = len(gaps) == 0 or np.allclose(gaps, gaps.mean(), rtol=0.02, atol=slack)
  lasts = times[-1] - times[0]
  if len(times) == frames and not skipped and abs(len(gaps) / want.fps - lasts) <= max(0.01 * lasts, 1.01 * tick):
    return []
  rate = f"{len(times) / end:.4g} frames a second" if steady else "frames at uneven times"
  return [f"resampled {len(times)} frames ({rate}, {end:.3g} s) to {frames} at {want.fps:g} a second, {skipped} of them not shown"]
