"""Low-resolution clips and the conditioning made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.spec.clip import ClipShape
from ivid.spec.stage import Filter, LowresSpec, TimeFill
from ivid.video.lowres import grow, grow_window, shrink

SSR = LowresSpec(input=ClipShape(8, 12, 20, 6.0))
SSR_OUT = ClipShape(8, 24, 40, 6.0)
TSR = LowresSpec(input=ClipShape(4, 6, 10, 3.0))
TSR_OUT = ClipShape(8, 6, 10, 6.0)


def _clip(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_space_by_box():
  x = _clip(2, 8, 24, 40, 3)
  small = shrink(x, SSR, SSR_OUT)
  np.testing.assert_allclose(small, x.reshape(2, 8, 12, 2, 20, 2, 3).mean(axis=(3, 5)), atol=1e-6)


def test_time_keeps_frame_k_at_k_over_f():
  x = _clip(2, 8, 6, 10, 3)
  np.testing.assert_array_equal(shrink(x, TSR, TSR_OUT), x[:, [0, 2, 4, 6]])


def test_a_crop_shrinks_as_the_whole_does():
  x = _clip(1, 8, 24, 40, 3)
  whole, crop = shrink(x, SSR, SSR_OUT), shrink(x[:, 2:5, 4:12, 8:24], SSR, SSR_OUT)
  np.testing.assert_allclose(crop, whole[:, 2:5, 2:6, 4:12], atol=1e-6)


def test_aspect_may_change():
  lowres = LowresSpec(input=ClipShape(2, 64, 64, 12.0), shrink=Filter.TRIANGLE)
  assert shrink(_clip(1, 2, 48, 80, 3), lowres, ClipShape(2, 48, 80, 12.0)).shape == (1, 2, 64, 64, 3)


@pytest.mark.parametrize("shape,lowres,output,message", [
  ((1, 8, 23, 40, 3), SSR, SSR_OUT, "height=23 .* multiple of 2"),
  ((1, 3, 6, 10, 3), TSR, TSR_OUT, "frames=3 .* multiple of 2"),
])  # fmt: skip
def test_sizes_must_divide(shape, lowres, output, message):
  with pytest.raises(ValueError, match=message):
    shrink(np.zeros(shape, np.float32), lowres, output)


def test_repeat_and_blank():
  small = _clip(2, 3, 4, 4, 3)
  repeat = grow(small, frames=6, height=4, width=4, time_fill=TimeFill.REPEAT)
  np.testing.assert_array_equal(repeat, small[:, [0, 0, 1, 1, 2, 2]])
  blank = grow(small, frames=6, height=4, width=4, time_fill=TimeFill.BLANK)
  np.testing.assert_array_equal(blank[:, ::2], small)
  np.testing.assert_array_equal(blank[:, 1::2], 0)


def test_linear_blends_to_the_next_frame():
  small = _clip(2, 3, 4, 4, 3)
  linear = grow(small, frames=12, height=4, width=4, time_fill=TimeFill.LINEAR)
  np.testing.assert_array_equal(linear[:, ::4], small)
  np.testing.assert_allclose(linear[:, 5], 0.75 * small[:, 1] + 0.25 * small[:, 2], atol=1e-6)
  np.testing.assert_array_equal(linear[:, 9:], np.repeat(small[:, 2:], 3, axis=1))


@pytest.mark.parametrize("fill", list(TimeFill))
@pytest.mark.parametrize("size", [(24, 40), (9, 20)])
def test_a_window_is_a_part_of_the_whole(fill, size):
  """Also where one axis grows and the other shrinks."""
  height, width = size
  small = jnp.asarray(_clip(2, 4, 12, 10, 3))
  sizes = dict(frames=8, height=height, width=width, time_fill=fill)
  whole = grow(small, **sizes)
  for origin in ((0, 0, 0), (2, 3, 8), (4, height - 6, width - 12)):
    part = grow_window(small, jnp.asarray(origin), (4, 6, 12), **sizes)
    t, y, x = origin
    np.testing.assert_allclose(part, whole[:, t : t + 4, y : y + 6, x : x + 12], atol=1e-6)


def test_frames_must_divide():
  with pytest.raises(ValueError, match="spread 3 frames over 8: expected a multiple of 3, such as 9"):
    grow(_clip(1, 3, 4, 4, 3), frames=8, height=4, width=4, time_fill=TimeFill.REPEAT)


@pytest.mark.parametrize("fill", list(TimeFill))
def test_numpy_equals_jax(fill):
  x = _clip(1, 8, 24, 40, 3)
  lowres, output = LowresSpec(input=ClipShape(4, 12, 20, 3.0)), ClipShape(8, 24, 40, 6.0)

  def both(clip):
    return grow(shrink(clip, lowres, output), frames=8, height=24, width=40, time_fill=fill)

  have, want = both(x), both(jnp.asarray(x))
  assert isinstance(have, np.ndarray) and isinstance(want, jax.Array) and have.shape == x.shape
  np.testing.assert_allclose(have, want, atol=1e-6)


def test_shrink_undoes_growth_of_flat_clips():
  small = np.broadcast_to(_clip(1, 8, 1, 1, 3), (1, 8, 12, 20, 3))
  big = grow(small, frames=8, height=24, width=40, time_fill=TimeFill.REPEAT)
  np.testing.assert_allclose(shrink(big, SSR, SSR_OUT), small, atol=1e-6)
