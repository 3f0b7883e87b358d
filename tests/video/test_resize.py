"""Weight matrices and resizing against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.programs import Program
from ivid.spec.stage import Filter
from ivid.video.resize import resize, resize_axis, resize_weights

SIZES = [(24, 48), (48, 24), (80, 40), (7, 5), (5, 7), (1, 4), (4, 1), (768, 1024), (1280, 320)]


@pytest.mark.parametrize("filter", list(Filter))
@pytest.mark.parametrize("n_in,n_out", SIZES)
def test_rows_are_means(n_in, n_out, filter):
  w = resize_weights(n_in, n_out, filter)
  assert w.shape == (n_out, n_in) and w.dtype == np.float32 and (w >= 0).all()
  np.testing.assert_allclose(w.sum(axis=1), 1, atol=1e-6)
  np.testing.assert_array_equal(w, w[::-1, ::-1])  # no side is preferred: corners not aligned, no half-pixel shift


def test_triangle_growth_keeps_ramps_inside():
  ramp = np.arange(10, dtype=np.float32)[:, None]
  big = resize_weights(10, 40, Filter.TRIANGLE) @ ramp
  want = (np.arange(40) + 0.5) / 4 - 0.5
  np.testing.assert_allclose(big[2:-2, 0], want[2:-2], atol=1e-5)
  np.testing.assert_allclose(big[:2, 0], 0, atol=1e-6)  # and repeats the edge outside


def test_triangle_shrink_is_antialiased():
  np.testing.assert_allclose(resize_weights(8, 4, Filter.TRIANGLE)[1], np.array([0, 1, 3, 3, 1, 0, 0, 0]) / 8, atol=1e-7)


def test_box_is_the_mean_of_the_covered_area():
  clip = np.random.default_rng(0).normal(size=(2, 3, 12, 20, 3)).astype(np.float32)
  want = clip.reshape(2, 3, 3, 4, 5, 4, 3).mean(axis=(3, 5))
  np.testing.assert_allclose(resize(clip, 3, 5, Filter.BOX), want, atol=1e-6)
  np.testing.assert_allclose(resize_weights(3, 2, Filter.BOX), np.array([[2, 1, 0], [0, 1, 2]]) / 3, atol=1e-7)


def test_box_growth_repeats():
  clip = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
  np.testing.assert_array_equal(resize(clip, 8, 15, Filter.BOX), clip.repeat(2, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize("filter", list(Filter))
@pytest.mark.parametrize("size", [(6, 10), (24, 40), (9, 13), (12, 30)])
def test_numpy_equals_jax(size, filter):
  clip = np.random.default_rng(0).normal(size=(2, 3, 12, 20, 3)).astype(np.float32)
  program = Program("resize", lambda c: resize(c, *size, filter)).jit()
  have, want = resize(clip, *size, filter), program(clip)
  assert isinstance(have, np.ndarray) and isinstance(want, jax.Array) and have.dtype == want.dtype == np.float32
  assert have.shape == (2, 3, *size, 3)
  np.testing.assert_allclose(have, want, atol=1e-6)


def test_same_size_is_a_no_op_and_dtypes_stay():
  clip = np.zeros((4, 6, 3), np.uint8)
  assert resize(clip, 4, 6, Filter.BOX) is clip
  assert resize(clip, 2, 3, Filter.BOX).dtype == np.float32
  assert resize(jnp.zeros((4, 6, 3), jnp.bfloat16), 2, 3, Filter.BOX).dtype == jnp.bfloat16


def test_time_is_an_axis_like_any_other():
  clip = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
  np.testing.assert_allclose(resize_axis(clip, 0, 2, Filter.BOX).ravel(), [1, 4], atol=1e-6)


def test_no_pixels():
  with pytest.raises(ValueError, match="from 4 to 0"):
    resize_weights(4, 0, Filter.BOX)
