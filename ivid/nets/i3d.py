"""I3D, the inflated Inception of Carreira and Zisserman (1705.07750, figure 3), as it is applied: batch normalisation is in the kernels.

On the CPU XLA's convolutions over three axes are several times slower than what they are made of here: sums of convolutions over two.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection

import flax.linen as nn
import jax
import jax.numpy as jnp

SIDE = 224  # of the pictures, in pixels
CLASSES = 400  # of Kinetics-400
MIN_FRAMES = 9  # the logits are means over pairs of the last layer's places in time, one for every eight frames
LOGITS = "Logits"
TAPS_AS_CHANNELS = 64  # channels times taps in time up to which one convolution over all taps is faster than one for each

Axes = tuple[int, int, int]  # time, height, width


@dataclasses.dataclass(frozen=True)
class Conv:
  channels: int
  kernel: Axes
  stride: Axes = (1, 1, 1)


@dataclasses.dataclass(frozen=True)
class Pool:
  window: Axes
  stride: Axes


@dataclasses.dataclass(frozen=True)
class Mixed:
  """Channels of the four branches side by side: 1; 3 behind a 1; 3 behind a 1; a 1 behind a pool (kernels' sides)."""

  alone: int
  before_second: int
  second: int
  before_third: int
  third: int
  pooled: int


TRUNK: dict[str, Conv | Pool | Mixed] = {
  "Conv3d_1a_7x7": Conv(64, (7, 7, 7), (2, 2, 2)),
  "MaxPool3d_2a_3x3": Pool((1, 3, 3), (1, 2, 2)),
  "Conv3d_2b_1x1": Conv(64, (1, 1, 1)),
  "Conv3d_2c_3x3": Conv(192, (3, 3, 3)),
  "MaxPool3d_3a_3x3": Pool((1, 3, 3), (1, 2, 2)),
  "Mixed_3b": Mixed(64, 96, 128, 16, 32, 32),
  "Mixed_3c": Mixed(128, 128, 192, 32, 96, 64),
  "MaxPool3d_4a_3x3": Pool((3, 3, 3), (2, 2, 2)),
  "Mixed_4b": Mixed(192, 96, 208, 16, 48, 64),
  "Mixed_4c": Mixed(160, 112, 224, 24, 64, 64),
  "Mixed_4d": Mixed(128, 128, 256, 24, 64, 64),
  "Mixed_4e": Mixed(112, 144, 288, 32, 64, 64),
  "Mixed_4f": Mixed(256, 160, 320, 32, 128, 128),
  "MaxPool3d_5a_2x2": Pool((2, 2, 2), (2, 2, 2)),
  "Mixed_5b": Mixed(256, 160, 320, 32, 128, 128),
  "Mixed_5c": Mixed(384, 192, 384, 48, 128, 128),
}
LAYERS = (*TRUNK, LOGITS)


class I3D(nn.Module):
  """The network up to the layers that are asked for.

  Attributes:
    still: of pictures that never change: each frame is by itself what the network says of a clip without end that shows it alone. Kernels
      are summed over time, as the inflation of section 2.3 has it backwards, so the parameters are the same.
  """

  still: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, layers: Collection[str] = (LOGITS,)) -> dict[str, jax.Array]:
    """Means over the places of each layer.

    Args:
      x: [B, T, SIDE, SIDE, 3] in [-1, 1], float32; T at least MIN_FRAMES for logits, and any if `still`.
      layers: of LAYERS.

    Returns:
      By layer [B, channels], the logits before softmax [B, CLASSES]; if `still`, [B, T, channels].
    """
    assert set(layers) <= set(LAYERS), layers
    over = (2, 3) if self.still else (1, 2, 3)
    found = {}
    for name, layer in TRUNK.items():
      if found.keys() == set(layers):
        return found
      x = self._layer(name, layer, x)
      if name in layers:
        found[name] = x.mean(over)
    if LOGITS in layers:
      # Means over windows of two frames, then over windows: a linear map of them, so that the frames' weights come first.
      frames = x.mean((2, 3))
      if not self.still:
        assert x.shape[1] >= 2, "the logits want MIN_FRAMES frames"
        frames = ((frames[:, :-1] + frames[:, 1:]) / 2).mean(1, keepdims=True)
      logits = Unit(Conv(CLASSES, (1, 1, 1)), relu=False, name=LOGITS)(frames[:, :, None, None])[:, :, 0, 0]
      found[LOGITS] = logits if self.still else logits[:, 0]
    return found

  def _layer(self, name: str, layer: Conv | Pool | Mixed, x: jax.Array) -> jax.Array:
    if isinstance(layer, Pool):
      return max_pool(x, _frame_by_frame(layer.window, self.still), _frame_by_frame(layer.stride, self.still))
    if isinstance(layer, Conv):
      return Unit(layer, still=self.still, name=name)(x)
    return MixedUnit(layer, still=self.still, name=name)(x)


class MixedUnit(nn.Module):
  spec: Mixed
  still: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    spec = self.spec

    def unit(name: str, channels: int, side: int, x: jax.Array) -> jax.Array:
      return Unit(Conv(channels, (side,) * 3), still=self.still, name=name)(x)  # pyright: ignore[reportArgumentType]  three sides

    second = unit("Branch_1_Conv3d_0b_3x3", spec.second, 3, unit("Branch_1_Conv3d_0a_1x1", spec.before_second, 1, x))
    third = unit("Branch_2_Conv3d_0b_3x3", spec.third, 3, unit("Branch_2_Conv3d_0a_1x1", spec.before_third, 1, x))
    pooled = max_pool(x, _frame_by_frame((3, 3, 3), self.still), (1, 1, 1))
    return jnp.concatenate(
      [unit("Branch_0_Conv3d_0a_1x1", spec.alone, 1, x), second, third, unit("Branch_3_Conv3d_0b_1x1", spec.pooled, 1, pooled)], axis=-1
    )


class Unit(nn.Module):
  """A convolution, its bias, and a ReLU; if `still`, its kernel summed over time."""

  spec: Conv
  relu: bool = True
  still: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    spec = self.spec
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (*spec.kernel, x.shape[-1], spec.channels))
    bias = self.param("bias", nn.initializers.zeros, (spec.channels,))
    if self.still:
      kernel = kernel.sum(0, keepdims=True)
    x = conv3d(x, kernel, _frame_by_frame(spec.stride, self.still)) + bias
    return nn.relu(x) if self.relu else x


def conv3d(x: jax.Array, kernel: jax.Array, stride: Axes) -> jax.Array:
  """Convolution padded with zeros to ceil(n / stride) places, as TensorFlow's SAME; in float32 on every platform.

  Args:
    x: [B, T, H, W, C].
    kernel: [kt, kh, kw, C, C'].
  """
  if kernel.shape[:3] == stride == (1, 1, 1):
    return jnp.matmul(x, kernel[0, 0, 0], precision=jax.lax.Precision.HIGHEST)
  native, planes = functools.partial(_native, stride=stride), functools.partial(_planes, stride=stride)
  return jax.lax.platform_dependent(x, kernel, cpu=planes, default=native)


def _native(x: jax.Array, kernel: jax.Array, *, stride: Axes) -> jax.Array:
  dimensions = ("NDHWC", "DHWIO", "NDHWC")
  return jax.lax.conv_general_dilated(x, kernel, stride, "SAME", dimension_numbers=dimensions, precision=jax.lax.Precision.HIGHEST)


def _planes(x: jax.Array, kernel: jax.Array, *, stride: Axes) -> jax.Array:
  """As _native: for each tap of the kernel in time a convolution of pictures; of few channels one over all taps' channels."""
  B, T, H, W, C = x.shape
  before, after, frames = _padding(T, kernel.shape[0], stride[0])
  # Taps that see padding alone add nothing.
  taps = [tap for tap in range(len(kernel)) if tap + (frames - 1) * stride[0] >= before and tap < before + T]
  padded = jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0), (0, 0)))
  seen = [padded[:, tap : tap + (frames - 1) * stride[0] + 1 : stride[0]].reshape(B * frames, H, W, C) for tap in taps]
  kernels = [kernel[tap] for tap in taps]
  if C * len(taps) <= TAPS_AS_CHANNELS:
    seen, kernels = [jnp.concatenate(seen, axis=-1)], [jnp.concatenate(kernels, axis=-2)]
  dimensions = ("NHWC", "HWIO", "NHWC")
  made = (
    jax.lax.conv_general_dilated(picture, part, stride[1:], "SAME", dimension_numbers=dimensions)
    for picture, part in zip(seen, kernels, strict=True)
  )
  y = functools.reduce(jnp.add, made)
  return y.reshape(B, frames, *y.shape[1:])


def max_pool(x: jax.Array, window: Axes, stride: Axes) -> jax.Array:
  """The largest value of each window of x [B, T, H, W, C], padded as of conv3d, but by nothing that could be the largest."""
  if stride != (1, 1, 1):
    return nn.max_pool(x, window, stride, "SAME")
  for axis, size in enumerate(window, start=1):  # one axis after the other, which XLA's windows on the CPU are a tenth as fast as
    if size == 1:
      continue
    before, after, places = _padding(x.shape[axis], size, 1)
    widths = [(before, after) if n == axis else (0, 0) for n in range(x.ndim)]
    padded = jnp.pad(x, widths, constant_values=-jnp.inf)
    x = functools.reduce(jnp.maximum, (jax.lax.slice_in_dim(padded, n, n + places, axis=axis) for n in range(size)))
  return x


def _padding(size: int, window: int, stride: int) -> tuple[int, int, int]:
  """Zeros before and after an axis, and the places that come out."""
  places = -(-size // stride)
  missing = max(0, (places - 1) * stride + window - size)
  return missing // 2, missing - missing // 2, places


def _frame_by_frame(axes: Axes, still: bool) -> Axes:
  return (1, *axes[1:]) if still else axes
