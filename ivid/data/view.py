"""Places and times of a training example in what a view shows (ivid.spec.view)."""

from __future__ import annotations

import numpy as np

from ivid.spec.view import View


def random_corner(view: View, rng: np.random.Generator) -> tuple[int, int, int]:
  """First frame, row and column of a random crop."""
  whole = (view.clip.frames, view.clip.height, view.clip.width)
  sizes = (view.frames, view.height, view.width)
  first, y, x = (int(rng.integers((n - m) // k + 1)) * k for n, m, k in zip(whole, sizes, view.align, strict=True))
  return first, y, x


def frame_times(view: View, first: int) -> np.ndarray:
  """Seconds of the frames of a crop that starts at frame `first`: frame k shows time k / fps."""
  return ((first + np.arange(view.frames)) / view.clip.fps).astype(np.float32)
