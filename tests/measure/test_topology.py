"""Names of TPU slices, and what is said of wrong ones."""

import pytest

from ivid.measure.topology import FAMILIES, parse_slice


def test_a_slice_is_its_family_and_its_chips():
  found = parse_slice("v5p:4x4x8")
  assert (found.chips, found.family.hbm, found.family.peak) == (128, 95e9, 459e12)
  assert parse_slice("v5e:2x4").chips == 8


def test_peaks_follow_from_the_clock_and_the_matrix_units():
  """Two operations a multiply-add, units of 128 x 128 (256 x 256 in v6e), 8, 4, 8 and 4 of them a chip."""
  for kind, units, side in (("v4", 8, 128), ("v5e", 4, 128), ("v5p", 8, 128), ("v6e", 4, 256)):
    family = FAMILIES[kind]
    assert abs(2 * units * side**2 * family.clock / family.peak - 1) < 0.01


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("v5q:4x4", "unknown family 'v5q': did you mean 'v5"),
    ("v5p:4x4", "the nearest is v5p:2x4x4|the nearest is v5p:2x2x4"),
    ("v5e:3x3", "the nearest is v5e:2x4"),
    ("v5e", "expected v5e: and one of 1x1, 2x2"),
  ],
)
def test_wrong_names(name, message):
  with pytest.raises(ValueError, match=message):
    parse_slice(name)


def test_smallest_slice_with_enough_chips():
  found = parse_slice("v5p:2x2x1")
  assert (found.smallest(5), found.smallest(64), found.smallest(10**6)) == ("v5p:2x2x2", "v5p:4x4x4", "")
