"""Augmentation: the forward process at a power ratio."""

import jax
import jax.numpy as jnp
import numpy as np

from ivid.diffusion.augment import augment, logsnr_from_snr


def test_snr_of_3_keeps_three_quarters_of_the_power():
  lowres, noise = jax.random.normal(jax.random.key(0), (2, 2, 3, 4, 4, 3))
  out = augment(lowres=lowres, logsnr=logsnr_from_snr(3.0), noise=noise)
  np.testing.assert_allclose(out, np.sqrt(0.75) * lowres + 0.5 * noise, atol=1e-6)


def test_level_per_row():
  lowres, noise = jnp.ones((2, 1, 2, 2, 3)), jnp.zeros((2, 1, 2, 2, 3))
  out = augment(lowres=lowres, logsnr=logsnr_from_snr(jnp.array([1.0, 3.0])), noise=noise)
  np.testing.assert_allclose(out[:, 0, 0, 0, 0], np.sqrt([0.5, 0.75]), rtol=1e-6)
