"""Layers with logical axis names: dense, convolutions, per-frame norms, and the patch grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from ivid.nets import axes
from ivid.nets.conv import conv2d, temporal_conv
from ivid.spec.stage import Norm

EPSILON = 1e-6  # added to variances


def kernel_init(zero: bool):
  """Normal with variance 1 / fan_in, or zeros for the last layer of a residual branch."""
  return nn.initializers.zeros_init() if zero else nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def logical(init: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
  """An initializer whose parameter carries the logical axes `names`; the layer that reads the parameter gets it unboxed."""
  return nn.with_logical_partitioning(init, names)


def pin(h: jax.Array) -> jax.Array:
  """Constrains an activation [B, T, H, W, C] to its mesh axes. Does nothing without logical axis rules or a mesh (jax.set_mesh).

  A mesh axis that does not divide its dimension is dropped: where a clip is split by rows, its coarse levels may have too few of them.
  """
  rules, sizes = dict(nn.get_logical_axis_rules()), dict(jax.sharding.get_abstract_mesh().shape)
  spec = [_dividing(rules.get(name), size, sizes) for name, size in zip(axes.ACTIVATION_AXES, h.shape, strict=True)]
  return jax.lax.with_sharding_constraint(h, PartitionSpec(*spec)) if rules and sizes else h


def _dividing(rule: str | tuple[str, ...] | None, size: int, sizes: dict[str, int]) -> str | tuple[str, ...] | None:
  names = (rule,) if isinstance(rule, str) else rule or ()
  return rule if names and size % math.prod(sizes.get(name, 1) for name in names) == 0 else None


class Dense(nn.Module):
  """Last axis -> `features`; names are the logical axes of (input, output)."""

  features: int
  names: tuple[str, str] = (axes.EMBED_IN, axes.EMBED_OUT)
  zero: bool = False
  bias: bool = True
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = logical(kernel_init(self.zero), self.names)
    kernel = self.param("kernel", init, (x.shape[-1], self.features), self.param_dtype)
    # One product of two matrices: on the CPU it is twice as fast as the same product with leading axes.
    y = x.astype(self.dtype).reshape(-1, x.shape[-1]) @ kernel.astype(self.dtype)
    y = y.reshape(*x.shape[:-1], self.features)
    if self.bias:
      init = logical(nn.initializers.zeros_init(), (axes.CHANNELS,))
      y = y + self.param("bias", init, (self.features,), self.param_dtype).astype(self.dtype)
    return y


class Conv(nn.Module):
  """Convolution of each frame, [B, T, H, W, C] -> [B, T, ceil(H / stride), ceil(W / stride), features]."""

  features: int
  kernel: int = 3
  stride: int = 1
  names: tuple[str, str] = (axes.EMBED_IN, axes.EMBED_OUT)
  zero: bool = False
  bias: bool = True
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    B, T, H, W, C = x.shape
    init = logical(kernel_init(self.zero), (axes.CONV_H, axes.CONV_W, *self.names))
    kernel = self.param("kernel", init, (self.kernel, self.kernel, C, self.features), self.param_dtype)
    y = conv2d(x.astype(self.dtype).reshape(B * T, H, W, C), kernel.astype(self.dtype), self.stride)
    if self.bias:
      init = logical(nn.initializers.zeros_init(), (axes.CHANNELS,))
      y = y + self.param("bias", init, (self.features,), self.param_dtype).astype(self.dtype)
    return y.reshape(B, T, *y.shape[1:])  # pyright: ignore[reportAttributeAccessIssue]  custom_vjp hides what the function returns


class TimeConv(nn.Module):
  """Convolution over frames at every position, zero padding, zero-initialised: [B, T, H, W, C] -> the same shape."""

  kernel: int = 3
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    C = x.shape[-1]
    init = logical(kernel_init(zero=True), (axes.CONV_T, axes.EMBED_IN, axes.EMBED_OUT))
    kernel = self.param("kernel", init, (self.kernel, C, C), self.param_dtype)
    init = logical(nn.initializers.zeros_init(), (axes.CHANNELS,))
    bias = self.param("bias", init, (C,), self.param_dtype)
    return temporal_conv(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


class FrameNorm(nn.Module):
  """Normalises each frame by itself, optionally followed by (1 + scale) h + shift; statistics in float32.

  GROUP: mean and variance over height, width and the channels of a group of one frame (arXiv 1803.08494).
  RMS: root mean square over the channels of one position (arXiv 1910.07467), so that a tile gives the same result as the frame.
  """

  kind: Norm
  groups: int = 8
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, scale: jax.Array | None = None, shift: jax.Array | None = None) -> jax.Array:
    """x [B, T, H, W, C]; scale and shift [B, K, C] with K in {1, T}."""
    B, T, _, _, C = x.shape
    init = logical(nn.initializers.ones_init(), (axes.CHANNELS,))
    gain = self.param("scale", init, (C,), self.param_dtype).astype(jnp.float32)
    factor = 1.0 if scale is None else 1.0 + scale.astype(jnp.float32)
    offset = jnp.zeros((1, 1, C)) if shift is None else shift.astype(jnp.float32)
    x = x.astype(jnp.float32)
    if self.kind is Norm.RMS:
      x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + EPSILON)
      gain = jnp.broadcast_to(gain * factor, offset.shape)
    else:
      init = logical(nn.initializers.zeros_init(), (axes.CHANNELS,))
      bias = self.param("bias", init, (C,), self.param_dtype).astype(jnp.float32)
      mean, var = self._statistics(x)
      gain = gain * jax.lax.rsqrt(var + EPSILON)
      offset = (bias - mean * gain) * factor + offset
      gain = gain * factor
    return (x * gain[:, :, None, None] + offset[:, :, None, None]).astype(self.dtype)

  def _statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance [B, T, C] of each frame, equal within a group of channels."""
    B, T, _, _, C = x.shape
    moments = jnp.stack([jnp.mean(x, axis=(2, 3)), jnp.mean(jnp.square(x), axis=(2, 3))])
    moments = moments.reshape(2, B, T, self.groups, C // self.groups).mean(-1)
    mean, square = jnp.repeat(moments, C // self.groups, axis=-1)
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


class VectorNorm(nn.Module):
  """RMS or layer norm over the last axis, in float32, with a learned gain whose logical axis is `name_axis`."""

  name_axis: str = axes.CHANNELS
  center: bool = False
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = logical(nn.initializers.ones_init(), (self.name_axis,))
    gain = self.param("scale", init, (x.shape[-1],), self.param_dtype).astype(jnp.float32)
    x = x.astype(jnp.float32)
    if self.center:
      x = x - x.mean(-1, keepdims=True)
    return (x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + EPSILON) * gain).astype(self.dtype)


def space_to_depth(x: jax.Array, patch: int) -> jax.Array:
  """[B, T, H, W, C] -> [B, T, H / patch, W / patch, patch^2 C], order (row, column, channel)."""
  if patch == 1:
    return x
  B, T, H, W, C = x.shape
  x = x.reshape(B, T, H // patch, patch, W // patch, patch, C).transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(B, T, H // patch, W // patch, patch * patch * C)


def depth_to_space(x: jax.Array, patch: int) -> jax.Array:
  """The inverse of space_to_depth."""
  if patch == 1:
    return x
  B, T, H, W, C = x.shape
  x = x.reshape(B, T, H, W, patch, patch, C // patch**2).transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(B, T, H * patch, W * patch, C // patch**2)


def grow2(x: jax.Array) -> jax.Array:
  """Nearest-neighbour x 2 in space: [B, T, H, W, C] -> [B, T, 2H, 2W, C]."""
  B, T, H, W, C = x.shape
  x = jnp.broadcast_to(x[:, :, :, None, :, None], (B, T, H, 2, W, 2, C))
  return x.reshape(B, T, 2 * H, 2 * W, C)


def sinusoids(values: jax.Array, features: int, *, shortest: float, longest: float) -> jax.Array:
  """[...] -> [..., features]: sines and cosines with periods spaced geometrically between two bounds, in units of `values`."""
  half = features // 2
  periods = jnp.exp(jnp.linspace(math.log(longest), math.log(shortest), half, dtype=jnp.float32))
  angles = values.astype(jnp.float32)[..., None] * (2 * math.pi / periods)
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
