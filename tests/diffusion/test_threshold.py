"""Thresholds: static clip, dynamic per example."""

import jax
import jax.numpy as jnp
import numpy as np

from ivid.diffusion.threshold import threshold
from ivid.spec.sampling import ThresholdKind


def test_none_and_static():
  x_hat = jnp.array([[-3.0, 0.5, 1.5]])
  np.testing.assert_array_equal(threshold(x_hat, ThresholdKind.NONE, 99.5), x_hat)
  np.testing.assert_array_equal(threshold(x_hat, ThresholdKind.STATIC, 99.5), [[-1.0, 0.5, 1.0]])


def test_dynamic_is_per_example_and_never_enlarges():
  x_hat = jax.random.normal(jax.random.key(0), (3, 2, 4, 4, 3)) * jnp.array([0.2, 1.0, 4.0]).reshape(3, 1, 1, 1, 1)
  out = threshold(x_hat, ThresholdKind.DYNAMIC, 90.0)
  np.testing.assert_array_equal(out[0], x_hat[0])
  for row in (1, 2):
    s = np.percentile(np.abs(np.asarray(x_hat[row])), 90.0)
    assert s > 1.0
    np.testing.assert_allclose(out[row], np.clip(x_hat[row], -s, s) / s, rtol=1e-5)
  assert float(jnp.abs(out).max()) <= 1.0


def test_dynamic_at_100_percent_divides_by_the_largest():
  x_hat = jnp.array([[-4.0, 2.0, 1.0]])
  np.testing.assert_allclose(threshold(x_hat, ThresholdKind.DYNAMIC, 100.0), [[-1.0, 0.5, 0.25]])
