"""Which captions belong to which rows."""

import pytest

from ivid.spec.batch import CaptionLayout
from ivid.spec.run import TrainSpec


@pytest.mark.parametrize(
  "size, fraction, rows, images", [(16, 0.25, 4, 1), (16, 0.0, 1, 0), (16, 1.0, 1, 1), (16, 0.2, 16, 3), (6, 0.33, 3, 1)]
)
def test_images_are_spread_evenly(size, fraction, rows, images):
  train = TrainSpec(batch_size=size, image_fraction=fraction)
  assert train.captions == CaptionLayout(rows, images)
  kinds = [train.is_image(index) for index in range(2 * size)]
  assert kinds[:size] == kinds[size:] and sum(kinds[:size]) == round(size * fraction)


@pytest.mark.parametrize("layout", [CaptionLayout(4, 1), CaptionLayout(1, 0), CaptionLayout(1, 1), CaptionLayout(16, 3)])
def test_the_layout_is_read_off_the_shapes(layout):
  assert CaptionLayout.of((16 // layout.rows, layout.captions(8)), batch_size=16, frames=8) == layout


def test_other_shapes_are_refused():
  for shape in ((4, 12), (4, 3), (3, 11), (16, 2)):
    with pytest.raises(ValueError, match=f"text of {shape[0]} x {shape[1]} captions for 16 rows of 8 frames: expected 16 x 1, or x 8"):
      CaptionLayout.of(shape, batch_size=16, frames=8)
