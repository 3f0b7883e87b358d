"""Colours that shift and drift, against inputs that they come from."""

import numpy as np
import pytest

from ivid.evaluate.over_time import colour_shift


def clips(frames=6):
  """An input, and the same twice as large."""
  small = np.random.default_rng(0).integers(60, 180, (frames, 8, 10, 3)).astype(np.uint8)
  return small, small.repeat(2, 1).repeat(2, 2)


def test_the_input_itself_is_not_off():
  small, _ = clips()
  assert set(colour_shift(small, small).values()) == {0.0}


def test_a_shift_of_all_frames_is_no_drift():
  small, _ = clips()
  found = colour_shift(small + np.array([3, 0, 0], np.uint8), small)
  assert found["mean"] == pytest.approx(np.sqrt(9 / 3))
  assert found["mean_drift"] < 1e-12 and found["deviation"] < 1e-12 and found["deviation_drift"] < 1e-12


def test_a_shift_that_grows_is_drift():
  small, _ = clips()
  made = small + np.arange(6, dtype=np.uint8)[:, None, None, None] * np.uint8(2)
  found = colour_shift(made, small)
  assert found["mean_drift"] == pytest.approx(np.std(2 * np.arange(6)))
  assert found["mean"] == pytest.approx(np.sqrt(np.square(2 * np.arange(6)).mean()))
  assert found["deviation"] < 1e-12 and found["deviation_drift"] < 1e-12


def test_contrast_that_is_lost_is_of_the_deviation():
  small, _ = clips()
  middle = small.mean((1, 2), keepdims=True)
  share = np.linspace(1, 0.5, 6)[:, None, None, None]
  found = colour_shift(np.round(middle + share * (small - middle)).astype(np.uint8), small)
  assert found["mean"] < 0.1 and found["deviation"] > 5 and found["deviation_drift"] > 3


def test_a_larger_clip_is_shrunk_first():
  """Twice as large: shrinking by a triangle takes some of the deviation, much the same in all frames, and moves no mean."""
  small, large = clips()
  found = colour_shift(large, small)
  assert found["mean"] < 0.5 and found["mean_drift"] < 0.5 and found["deviation_drift"] < 2
  assert colour_shift(large + np.uint8(5), small)["mean"] == pytest.approx(5, abs=0.5)
