import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.nets.conv import conv2d, temporal_conv


def _reference(x, kernel, stride):
  kh, kw = kernel.shape[:2]
  pads = ((kh // 2, kh // 2), (kw // 2, kw // 2))
  return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _arrays(*shapes, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize(
  "size,kernel,stride",
  [((6, 8), (3, 3), 1), ((5, 7), (3, 3), 1), ((4, 4), (1, 1), 1), ((5, 6), (3, 1), 1)]
  + [((6, 8), (3, 3), 2), ((5, 7), (3, 3), 2), ((1, 3), (3, 3), 2), ((5, 6), (1, 1), 2)],
)
def test_values_and_gradients_equal_lax(size, kernel, stride):
  x, k = _arrays((2, *size, 3), (*kernel, 3, 4))
  dy = jnp.cos(jnp.arange(x.size * 2, dtype=jnp.float32))

  def value_and_gradients(conv):
    y, pull = jax.vjp(lambda x, k: conv(x, k, stride), x, k)
    return y, *pull(dy[: y.size].reshape(y.shape))

  for a, b in zip(*jax.jit(lambda: [value_and_gradients(conv) for conv in (conv2d, _reference)])(), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_gradient_inside_scan_and_remat():
  x, ks = _arrays((1, 4, 4, 2), (3, 3, 3, 2, 2))

  def loss(ks, conv):
    body = jax.checkpoint(lambda h, k: (jnp.tanh(conv(h, k, 1)), None), prevent_cse=False)
    return jnp.sum(jax.lax.scan(body, x, ks)[0])

  actual, expected = jax.jit(lambda: [jax.grad(loss)(ks, conv) for conv in (conv2d, _reference)])()
  np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_gradients_have_the_dtype_of_their_arguments(stride):
  x, k = _arrays((2, 4, 4, 3), (3, 3, 3, 4), dtype=jnp.bfloat16)
  dx, dk = jax.jit(jax.grad(lambda x, k: conv2d(x, k, stride).astype(jnp.float32).sum(), (0, 1)))(x, k)
  assert (dx.dtype, dk.dtype) == (jnp.bfloat16, jnp.bfloat16)
  expected = jax.grad(lambda k: _reference(x.astype(jnp.float32), k, stride).sum())(k.astype(jnp.float32))
  np.testing.assert_allclose(dk.astype(jnp.float32), expected, rtol=0.03, atol=0.1)


def test_other_platforms_get_the_native_convolution():
  x, k = _arrays((2, 4, 4, 3), (3, 3, 3, 4))
  grad = jax.jit(jax.grad(lambda x, k: conv2d(x, k, 1).sum(), (0, 1)))
  tpu = grad.trace(x, k).lower(lowering_platforms=("tpu",)).as_text()
  cpu = grad.trace(x, k).lower(lowering_platforms=("cpu",)).as_text()
  assert "stablehlo.dot_general" not in tpu and tpu.count("stablehlo.convolution") >= 2
  assert "stablehlo.dot_general" in cpu


def test_temporal_conv_sums_three_frames():
  x, k = _arrays((2, 5, 2, 3, 4), (3, 4, 4))
  padded = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
  expected = sum(padded[:, i : i + 5] @ np.asarray(k[i]) for i in range(3))
  np.testing.assert_allclose(temporal_conv(x, k), expected, atol=1e-5)
