"""Guidance: weight 0 is the conditional model; constant and oscillating weights."""

import jax
import jax.numpy as jnp
import numpy as np

from ivid.diffusion.guidance import guidance_weights, guided
from ivid.spec.sampling import GuidanceSpec


def test_formula_and_zero_weight():
  x_cond, x_uncond = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
  np.testing.assert_array_equal(guided(x_cond=x_cond, x_uncond=x_uncond, w=0.0), x_cond)
  np.testing.assert_allclose(guided(x_cond=x_cond, x_uncond=x_uncond, w=2.5), 3.5 * x_cond - 2.5 * x_uncond, atol=1e-5)
  np.testing.assert_allclose(guided(x_cond=x_cond, x_uncond=x_uncond, w=-1.0), x_uncond, atol=1e-6)


def test_weight_per_row():
  x_cond, x_uncond = jnp.ones((2, 3, 2)), jnp.zeros((2, 3, 2))
  out = guided(x_cond=x_cond, x_uncond=x_uncond, w=jnp.array([1.0, 15.0]))
  np.testing.assert_array_equal(out[:, 0, 0], [2.0, 16.0])


def test_constant_and_oscillating_weights():
  constant = guidance_weights(GuidanceSpec(weight=6.0), 4)
  assert constant.dtype == np.float32
  np.testing.assert_array_equal(constant, [6, 6, 6, 6])
  np.testing.assert_array_equal(guidance_weights(GuidanceSpec(15.0, 1.0, 0.3), 10), [15, 15, 15, 1, 15, 1, 15, 1, 15, 1])
  np.testing.assert_array_equal(guidance_weights(GuidanceSpec(15.0, 1.0, 0.0), 3), [1, 15, 1])
  np.testing.assert_array_equal(guidance_weights(GuidanceSpec(15.0, 1.0, 1.0), 3), [15, 15, 15])
