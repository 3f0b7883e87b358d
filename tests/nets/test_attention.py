"""Attention: what only other platforms than this one run, against what runs here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.nets.attention import attend_each_position, attend_packed, join, project


def normal(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize(("frames", "positions"), [(16, 12), (3, 10), (130, 2)])
def test_positions_that_share_an_attention_do_not_see_each_other(frames, positions):
  """Values and gradients; packs of 6 of the 8 that would fit, of 10, and of one position."""
  q, k, v = (normal(n, 2, frames, 3, positions, 4) for n in range(3))
  by_one = jax.vjp(attend_each_position, q, k, v)
  packed = jax.vjp(attend_packed, q, k, v)
  np.testing.assert_allclose(packed[0], by_one[0], atol=2e-6)
  for got, want in zip(packed[1](v), by_one[1](v), strict=True):
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_projections_into_and_out_of_heads_are_dense_layers():
  x, kernel, back = normal(0, 2, 5, 6), normal(1, 6, 12), normal(2, 12, 7)
  heads = project(x, kernel, head_dim=4)
  want = (x @ kernel).reshape(2, 5, 3, 4).swapaxes(1, 2)
  np.testing.assert_allclose(heads, want, atol=1e-5)
  np.testing.assert_allclose(join(heads, back), x @ kernel @ back, atol=1e-4)
