"""Resizing by weight matrices, defined once for NumPy and JAX arrays."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ivid.spec.errors import UserError
from ivid.spec.stage import Filter


@functools.cache
def resize_weights(n_in: int, n_out: int, filter: Filter) -> np.ndarray:
  """The read-only matrix [n_out, n_in] float32 that resizes an axis. Its rows sum to 1; pixel i covers [i, i + 1) (corners not aligned).

  TRIANGLE: w_ij is proportional to max(0, 1 - |x_j - x_i| / s) with x at pixel centres and s = max(n_in / n_out, 1) input pixels. This is
  bilinear interpolation, antialiased when shrinking. BOX: w_ij is proportional to the overlap of output pixel i with input pixel j. This is
  the exact mean of the covered area, and repetition when enlarging by a whole factor. Pixels outside the picture have no weight.

  Raises:
    UserError: a size below 1.
  """
  if n_in < 1 or n_out < 1:
    raise UserError(f"resize from {n_in} to {n_out}: expected sizes of 1 or more")
  i, j = np.arange(n_out, dtype=np.int64)[:, None], np.arange(n_in, dtype=np.int64)[None, :]
  # In units of 1 / n_out input pixels (or half of that) both kernels are whole numbers, so equal weights are exactly equal.
  if filter is Filter.TRIANGLE:
    distance = np.abs((2 * j + 1) * n_out - (2 * i + 1) * n_in)
    weights = np.maximum(0, 2 * max(n_in, n_out) - distance)
  else:
    weights = np.maximum(0, np.minimum((i + 1) * n_in, (j + 1) * n_out) - np.maximum(i * n_in, j * n_out))
  matrix = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
  matrix.flags.writeable = False
  return matrix


def resize_axis(clip: Any, axis: int, size: int, filter: Filter) -> Any:
  """`clip` with `axis` resized to `size`. Computed in float32 and returned in the clip's dtype (float32 for integers).

  NumPy arrays give NumPy arrays, JAX arrays (traced or not) give JAX arrays. If the size stays the same, the clip is returned as it is.
  """
  axis = axis % clip.ndim
  if clip.shape[axis] == size:
    return clip
  weights = resize_weights(clip.shape[axis], size, filter)
  if isinstance(clip, jax.Array):
    dtype = clip.dtype if jnp.issubdtype(clip.dtype, jnp.floating) else jnp.float32
    inputs = list(range(clip.ndim))
    outputs = [clip.ndim if d == axis else d for d in inputs]
    x = jnp.asarray(clip, jnp.float32)
    return jnp.einsum(x, inputs, weights, [clip.ndim, axis], outputs, precision=jax.lax.Precision.HIGHEST).astype(dtype)
  dtype = clip.dtype if jnp.issubdtype(clip.dtype, jnp.floating) else np.float32
  resized = np.tensordot(weights, clip.astype(np.float32, copy=False), axes=(1, axis))
  return np.ascontiguousarray(np.moveaxis(resized, 0, axis)).astype(dtype, copy=False)


def resize_window(clip: jax.Array, axis: int, size: int, filter: Filter, *, start: jax.Array, length: int) -> jax.Array:
  """Positions `start` (may be traced) to start + length of resize_axis(clip, axis, size, filter), as a sum of a few shifted reads.

  Without a matrix product over the whole axis, a part costs only its share of the whole; enlarging takes two reads per position.
  """
  axis = axis % clip.ndim
  if clip.shape[axis] == size:
    return jax.lax.dynamic_slice_in_dim(clip, start, length, axis)
  places, weights = _taps(clip.shape[axis], size, filter)
  places = jax.lax.dynamic_slice_in_dim(jnp.asarray(places), start, length, 1)
  weights = jax.lax.dynamic_slice_in_dim(jnp.asarray(weights), start, length, 1)
  along = [1] * clip.ndim
  along[axis] = length
  reads = (jnp.take(clip, place, axis, mode="clip") * weight.reshape(along) for place, weight in zip(places, weights, strict=True))
  return functools.reduce(jnp.add, reads)


@functools.cache
def _taps(n_in: int, n_out: int, filter: Filter) -> tuple[np.ndarray, np.ndarray]:
  """The rows of resize_weights without their zeros: positions [k, n_out] int32 and weights [k, n_out]."""
  matrix = resize_weights(n_in, n_out, filter)
  count = int((matrix > 0).sum(axis=1).max())
  first = np.minimum((matrix > 0).argmax(axis=1), n_in - count)
  places = first + np.arange(count)[:, None]
  return places.astype(np.int32), np.take_along_axis(matrix.T, places, axis=0)


def resize(clip: Any, height: int, width: int, filter: Filter) -> Any:
  """Resizes pictures or clips [..., H, W, C] to height x width. See `resize_weights` for the kernels and `resize_axis` for dtypes."""
  return resize_axis(resize_axis(clip, -3, height, filter), -2, width, filter)
