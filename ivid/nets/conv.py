"""The one convolution of the networks, lowered per platform.

TPUs and GPUs use XLA's native convolution and its native gradients. On the CPU, XLA's gradient with respect to the kernel is very slow,
because it is a convolution whose window is the whole picture. There we compute it as matrix products of shifted views of the input with
shifted views of the output's gradient, and the gradient with respect to the input as a plain convolution with the flipped kernel.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
  """Convolution with odd kernel and zero padding of kernel // 2 on both sides.

  Args:
    x: [N, H, W, C].
    kernel: [kh, kw, C, C'], kh and kw odd.
    stride: 1 or 2, the same in both directions.

  Returns:
    [N, ceil(H / stride), ceil(W / stride), C'], dtype of `x`.
  """
  return _forward(x, kernel, stride)


def temporal_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution over frames, zero padding: x [B, T, H, W, C], kernel [kt, C, C'] -> [B, T, H, W, C']."""
  B, T, H, W, C = x.shape
  y = conv2d(x.reshape(B, T, H * W, C), kernel[:, None], 1)
  return y.reshape(B, T, H, W, kernel.shape[-1])  # pyright: ignore[reportAttributeAccessIssue]  custom_vjp hides what the function returns


def _forward(x, kernel, stride):
  assert kernel.shape[0] % 2 and kernel.shape[1] % 2 and stride in (1, 2), (kernel.shape, stride)
  if kernel.shape[:2] == (1, 1) and stride == 1:
    return x @ kernel[0, 0]
  return jax.lax.platform_dependent(
    x, kernel, cpu=functools.partial(_cpu_forward, stride=stride), default=functools.partial(_native, stride=stride)
  )


def _conv2d_fwd(x, kernel, stride):
  return _forward(x, kernel, stride), (x, kernel)


def _conv2d_bwd(stride, residuals, dy):
  x, kernel = residuals
  return jax.lax.platform_dependent(
    x, kernel, dy, cpu=functools.partial(_cpu_gradients, stride=stride), default=functools.partial(_native_gradients, stride=stride)
  )


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


def _native(x, kernel, *, stride):
  kh, kw = kernel.shape[:2]
  pads = ((kh // 2, kh // 2), (kw // 2, kw // 2))
  return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _native_gradients(x, kernel, dy, *, stride):
  return jax.vjp(functools.partial(_native, stride=stride), x, kernel)[1](dy)


def _cpu_forward(x, kernel, *, stride):
  return _strided(x, kernel) if stride == 2 else _native(x, kernel, stride=1)


def _cpu_gradients(x, kernel, dy, *, stride):
  if stride == 2:
    return jax.vjp(_strided, x, kernel)[1](dy)
  flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  return _forward(dy, flipped, 1), _kernel_gradient(x, kernel, dy)


def _kernel_gradient(x, kernel, dy):
  """d kernel[i, j] = sum over places of x shifted by (i, j) times dy: one matrix product per row of the kernel.

  Rows shift one of the two arrays; columns shift the one with fewer channels, and their views are joined along the channels. This makes
  fewer copies and wider products than one product per kernel position, and is two to three times as fast below 128 channels.
  """
  kh, kw, C, C_out = kernel.shape
  N, H, W, _ = x.shape
  wide, narrow, sign = (x, dy, -1) if C_out <= C else (dy, x, 1)  # sign: x shifted by s is dy shifted by -s
  ph, pw = kh // 2, kw // 2
  rows = jnp.pad(wide, ((0, 0), (ph, ph), (0, 0), (0, 0)))
  columns = jnp.pad(narrow, ((0, 0), (0, 0), (pw, pw), (0, 0)))
  starts = [pw + sign * (j - pw) for j in range(kw)]
  joined = jnp.concatenate([columns[:, :, start : start + W] for start in starts], axis=-1).reshape(N * H * W, -1)
  products = []
  for i in range(kh):
    start = ph - sign * (i - ph)
    view = rows[:, start : start + H].reshape(N * H * W, -1)
    pair = (view, joined) if wide is x else (joined, view)
    products.append(jnp.matmul(pair[0].T, pair[1], preferred_element_type=jnp.float32))
  products = jnp.stack(products)
  if wide is x:
    products = products.reshape(kh, C, kw, C_out).swapaxes(1, 2)
  return products.reshape(kernel.shape).astype(kernel.dtype)


def _strided(x, kernel):
  """Stride 2 as one matrix product: the picture is split into even and odd rows and columns, so each tap is a shifted view."""
  kh, kw, C, C_out = kernel.shape
  N, H, W, _ = x.shape
  rows, cols = (H + 1) // 2, (W + 1) // 2
  grid_h, grid_w = rows + kh // 2, cols + kw // 2
  pad_h = (kh // 2, 2 * grid_h - H - kh // 2)
  pad_w = (kw // 2, 2 * grid_w - W - kw // 2)
  phases = jnp.pad(x, ((0, 0), pad_h, pad_w, (0, 0))).reshape(N, grid_h, 2, grid_w, 2, C)
  taps = [phases[:, i // 2 : i // 2 + rows, i % 2, j // 2 : j // 2 + cols, j % 2].reshape(-1, C) for i in range(kh) for j in range(kw)]
  y = jnp.concatenate(taps, axis=-1) @ kernel.reshape(kh * kw * C, C_out)
  return y.reshape(N, rows, cols, C_out)
