"""Errors over time: how colours drift against the input, and how far pixels depart from the exact flow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ivid.media.clips import from_uint8, to_uint8
from ivid.moving_shapes.flow import flows
from ivid.moving_shapes.scene import Scene
from ivid.spec.stage import Filter
from ivid.video.resize import resize

MEAN, DEVIATION = "mean", "deviation"
DRIFT = "_drift"


def colour_shift(made: np.ndarray, small: np.ndarray) -> dict[str, float]:
  """How far the colours of a clip are from those of its input, and how this changes over time, in 1/255.

  Super-resolution by eps-prediction shifts colours, and in video lets them drift from frame to frame; v-prediction does not (Imagen Video,
  2210.02303, on v-prediction). Each frame of the input is compared with the frame at its time, shrunk to its size: means over the picture
  of each channel, and deviations about them.

  Args:
    made: uint8 [t, H, W, 3], those frames that have one of the input at their time.
    small: the input, uint8 [t, h, w, 3].

  Returns:
    `mean` and `deviation`: root mean square over frames and channels of their errors; `mean_drift` and `deviation_drift`: the same
    for the differences of these errors from their means over the clip.
  """
  _, height, width, _ = small.shape
  # rounded like the input
  shrunk = to_uint8(resize(from_uint8(made), height, width, Filter.TRIANGLE))
  found = {}
  for name, of in ((MEAN, np.mean), (DEVIATION, np.std)):
    off = of(shrunk, axis=(1, 2), dtype=np.float64) - of(small, axis=(1, 2), dtype=np.float64)
    found[name] = float(np.sqrt(np.square(off).mean()))
    found[name + DRIFT] = float(np.sqrt(np.square(off - off.mean(0)).mean()))
  return found


def warping_errors(clips: Mapping[str, np.ndarray], scene: Scene, *, fps: float) -> dict[str, float]:
  """How far each frame is from the one before it, moved along the scene's exact flow: root mean square in 1/255, by clip.

  The warping error of Lai et al. (1808.00449, section 4.1), with the flow by which the scene was drawn instead of an estimated one. A pixel
  counts if the background or one object fills it in both frames: at edges, where colours mix, no flow is right. So a drawn clip
  only has errors of rounding.

  Args:
    clips: uint8 [T, H, W, 3], all of one shape, whose frame k is to show the scene at k / fps seconds.
  """
  length, height, width, _ = next(iter(clips.values())).shape
  totals, count = dict.fromkeys(clips, 0.0), 0
  for n, flow in enumerate(flows(scene, times=np.arange(length) / fps, height=height, width=width), start=1):
    count += 3 * (int(flow.still.sum()) + len(flow.rows))
    for name, clip in clips.items():
      still = clip[n][flow.still].astype(np.float32) - clip[n - 1][flow.still]
      moved = clip[n][flow.rows, flow.columns] - _between(clip[n - 1], flow.from_rows, flow.from_columns)
      totals[name] += sum(float(np.square(off).sum(dtype=np.float64)) for off in (still, moved))
  return {name: float(np.sqrt(total / max(count, 1))) for name, total in totals.items()}


def _between(frame: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """The frame uint8 [H, W, 3] at places [P] between its pixels, bilinear: float32 [P, 3]."""
  top, left = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
  down, right = (rows - top)[:, None], (columns - left)[:, None]
  upper = frame[top, left] * (1 - right) + frame[top, left + 1] * right
  lower = frame[top + 1, left] * (1 - right) + frame[top + 1, left + 1] * right
  return upper * (1 - down) + lower * down
