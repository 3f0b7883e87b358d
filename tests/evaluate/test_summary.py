"""Rates, intervals, confusion counts."""

import numpy as np
import pytest

from ivid.evaluate.summary import confusion, rate, summarize


def test_wilson_interval():
  # Wilson 1927 for 8 of 10: centre and half width by hand.
  z, n, p = 1.959963984540054, 10, 0.8
  centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
  half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
  found = rate(8, 10)
  assert found["rate"] == 0.8 and found["of"] == 10
  np.testing.assert_allclose([found["low"], found["high"]], [centre - half, centre + half], atol=1e-9)
  assert rate(0, 0)["rate"] is None


def test_groups_stay_apart_and_untold_attributes_do_not_count():
  scores = [dict(colour=True, shape=None), dict(colour=False, shape=True), dict(colour=True, shape=True)]
  found = summarize(["one", "one", "two"], scores)
  assert list(found) == ["one", "two"]
  assert (found["one"]["colour"]["right"], found["one"]["colour"]["of"]) == (1, 2)
  assert (found["one"]["shape"]["right"], found["one"]["shape"]["of"]) == (1, 1)
  assert found["two"]["colour"]["rate"] == 1.0


def test_confusion():
  counts = confusion(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"])
  np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 1, 0], [0, 0, 0]])
  with pytest.raises(ValueError, match="confusion of 'd': expected one of a, b"):
    confusion(["d"], ["a"], ["a", "b"])
