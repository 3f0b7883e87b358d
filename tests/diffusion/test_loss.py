"""Losses: the same weighted error through every kind of output, bounded weights for x output, buckets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.diffusion import process
from ivid.diffusion.loss import logsnr_buckets, weighted_loss, x_weight
from ivid.spec.stage import LossWeight, Prediction

LOGSNR = jnp.array([-6.0, -1.0, 1.0, 5.0])
FLOOR = 0.05  # sigma at logsnr 5 is 0.082: the whole of LOGSNR is away from the floor


@pytest.fixture
def example():
  keys = jax.random.split(jax.random.key(0), 3)
  x, eps, error = (jax.random.normal(key, (4, 2, 3, 3, 1)) for key in keys)
  v = process.v_from_x_eps(x=x, eps=eps, logsnr=LOGSNR)
  return x, eps, v, process.q_sample(x=x, eps=eps, logsnr=LOGSNR), v + 0.1 * error


def losses(kind, prediction, output, x, eps, z_t):
  return weighted_loss(kind=kind, prediction=prediction, output=output, x=x, eps=eps, z_t=z_t, logsnr=LOGSNR, sigma_floor=FLOOR)


@pytest.mark.parametrize("kind", list(LossWeight))
def test_outputs_of_all_kinds_give_the_same_loss(example, kind):
  x, eps, _, z_t, v_hat = example
  x_hat = process.x_from_v(z_t=z_t, v=v_hat, logsnr_t=LOGSNR)
  eps_hat = process.eps_from_v(z_t=z_t, v=v_hat, logsnr_t=LOGSNR)
  by_x = losses(kind, Prediction.X, x_hat, x, eps, z_t)
  assert by_x.shape == (4,)
  np.testing.assert_allclose(losses(kind, Prediction.V, v_hat, x, eps, z_t), by_x, rtol=1e-3)
  np.testing.assert_allclose(losses(kind, Prediction.EPS, eps_hat, x, eps, z_t), by_x, rtol=1e-3)


def test_v_weight_is_plain_error_on_v_and_eps_weight_on_eps(example):
  x, eps, v, z_t, v_hat = example
  eps_hat = process.eps_from_v(z_t=z_t, v=v_hat, logsnr_t=LOGSNR)
  axes = (1, 2, 3, 4)
  np.testing.assert_allclose(losses(LossWeight.V, Prediction.V, v_hat, x, eps, z_t), np.mean((v_hat - v) ** 2, axis=axes), rtol=1e-5)
  np.testing.assert_allclose(
    losses(LossWeight.EPS, Prediction.EPS, eps_hat, x, eps, z_t), np.mean((eps_hat - eps) ** 2, axis=axes), rtol=1e-5
  )


def test_eps_may_follow_from_x_and_z(example):
  x, eps, _, z_t, v_hat = example
  for prediction in (Prediction.V, Prediction.EPS):
    known = losses(LossWeight.V, prediction, v_hat, x, eps, z_t)
    np.testing.assert_allclose(losses(LossWeight.V, prediction, v_hat, x, None, z_t), known, rtol=1e-3)


@pytest.mark.parametrize(
  "kind,expected",
  [
    (LossWeight.X, lambda snr: 1.0 + 0 * snr),
    (LossWeight.EPS, lambda snr: snr),
    (LossWeight.V, lambda snr: snr + 1.0),
    (LossWeight.TRUNCATED_SNR, lambda snr: np.maximum(snr, 1.0)),
    (LossWeight.MIN_SNR, lambda snr: np.minimum(snr, 5.0)),
  ],
)
def test_weights(kind, expected):
  snr = np.exp(np.asarray(LOGSNR))
  for prediction in Prediction:
    got = x_weight(kind, prediction=prediction, logsnr=LOGSNR, sigma_floor=FLOOR)
    np.testing.assert_allclose(got, expected(snr), rtol=1e-5)


def test_floor_bounds_the_weight_of_x_output_only():
  logsnr = jnp.array([20.0])
  for kind in LossWeight:
    assert float(x_weight(kind, prediction=Prediction.X, logsnr=logsnr, sigma_floor=FLOOR)[0]) <= 1.0001 / FLOOR**2
  assert float(x_weight(LossWeight.V, prediction=Prediction.X, logsnr=logsnr, sigma_floor=FLOOR)[0]) == pytest.approx(400.0)
  assert float(x_weight(LossWeight.V, prediction=Prediction.V, logsnr=logsnr, sigma_floor=FLOOR)[0]) > 1e8


def test_loss_is_float32_of_a_bfloat16_output():
  x = jnp.ones((2, 3))
  loss = weighted_loss(
    kind=LossWeight.V, prediction=Prediction.V, output=x.astype(jnp.bfloat16), x=x, eps=x, z_t=x, logsnr=jnp.zeros(2), sigma_floor=FLOOR
  )
  assert loss.dtype == jnp.float32


def test_buckets():
  loss, level = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0]), jnp.array([-25.0, -20.0, -0.1, 0.1, 20.0])
  total, count = logsnr_buckets(loss=loss, level=level, low=-20.0, high=20.0, buckets=4)
  np.testing.assert_array_equal(total, [3.0, 4.0, 8.0, 16.0])
  np.testing.assert_array_equal(count, [2.0, 1.0, 1.0, 1.0])
