"""The exact denoiser of a Gaussian mixture: the oracle that the sampler tests hold on to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.diffusion.schedule import alpha_sigma


@dataclasses.dataclass(frozen=True)
class GaussianMixture:
  """x ~ sum_k weights[k] N(means[k], covariances[k]) in D dimensions: weights [K], means [K, D], covariances [K, D, D]."""

  weights: np.ndarray
  means: np.ndarray
  covariances: np.ndarray

  @property
  def mean(self) -> np.ndarray:
    return self.weights @ self.means

  @property
  def covariance(self) -> np.ndarray:
    centred = self.means - self.mean
    return np.einsum("k,kij->ij", self.weights, self.covariances + centred[:, :, None] * centred[:, None, :])

  def denoise(self, z_t: jax.Array, logsnr: jax.Array) -> jax.Array:
    """E[x | z_t] for z_t [B, D] at one level: a posterior mean per component, weighted by its responsibility."""
    alpha, sigma = alpha_sigma(logsnr)
    marginal = alpha**2 * self.covariances + sigma**2 * np.eye(self.means.shape[1])
    offset = z_t[:, None, :] - alpha * self.means
    solved = jnp.einsum("kij,bkj->bki", jnp.linalg.inv(marginal), offset)
    log_density = -0.5 * jnp.sum(offset * solved, axis=-1) - 0.5 * jnp.linalg.slogdet(marginal)[1]
    responsibility = jax.nn.softmax(jnp.log(self.weights) + log_density, axis=-1)
    component_mean = self.means + alpha * jnp.einsum("kij,bkj->bki", self.covariances, solved)
    return jnp.einsum("bk,bki->bi", responsibility, component_mean)


@pytest.fixture
def correlated_mixture() -> GaussianMixture:
  """Two correlated components in the plane, of unequal weight, within the range of data."""
  return GaussianMixture(
    weights=np.array([0.3, 0.7]),
    means=np.array([[-0.7, 0.3], [0.5, -0.2]]),
    covariances=np.array([[[0.04, 0.03], [0.03, 0.05]], [[0.09, -0.05], [-0.05, 0.06]]]),
  )
