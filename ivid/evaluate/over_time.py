"""What changes over a clip that should not: its colours, against the input that they come from."""

from __future__ import annotations

import numpy as np

from ivid.media.clips import from_uint8, to_uint8
from ivid.spec.stage import Filter
from ivid.video.resize import resize

MEAN, DEVIATION = "mean", "deviation"
DRIFT = "_drift"


def colour_shift(made: np.ndarray, small: np.ndarray) -> dict[str, float]:
  """How far the colours of a clip are off from its input's, and how that changes over time, in 1/255.

  Super-resolution by eps-prediction shifts colours, and in video lets them drift from frame to frame; v-prediction does not (Imagen Video,
  2210.02303, on v-prediction). Each frame of the input is compared with the frame at its time, shrunk to its size: means over the picture
  of each channel, and deviations about them.

  Args:
    made: uint8 [t, H, W, 3], those frames that have one of the input at their time.
    small: the input, uint8 [t, h, w, 3].

  Returns:
    `mean` and `deviation`: root mean square over frames and channels of what they are off by; `mean_drift` and `deviation_drift`: the same
    of how this differs from its mean over the clip.
  """
  _, height, width, _ = small.shape
  # Rounded, as the input is.
  shrunk = to_uint8(resize(from_uint8(made), height, width, Filter.TRIANGLE))
  found = {}
  for name, of in ((MEAN, np.mean), (DEVIATION, np.std)):
    off = of(shrunk, axis=(1, 2), dtype=np.float64) - of(small, axis=(1, 2), dtype=np.float64)
    found[name] = float(np.sqrt(np.square(off).mean()))
    found[name + DRIFT] = float(np.sqrt(np.square(off - off.mean(0)).mean()))
  return found
