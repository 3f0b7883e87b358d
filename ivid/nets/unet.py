"""The Video U-Net of every stage (Imagen Video, section 2.3; Efficient U-Net, Imagen, appendix B)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ivid.nets import axes, second_way_up
from ivid.nets.blocks import Block
from ivid.nets.condition import Conditioner, Context
from ivid.nets.layers import Conv, Dense, FrameNorm, depth_to_space, grow2, pin, space_to_depth
from ivid.spec.errors import UserError
from ivid.spec.stage import LevelSpec, TimeMixing, UNetSpec


class VideoUNet(nn.Module):
  """Predicts x, eps or v (the stage says which) from a noisy clip, its noise level and its conditioning.

  On the way down, a level halves the resolution and then applies its blocks; on the way up it applies as many blocks and then doubles the
  resolution. The blocks of a level are scanned over stacked weights, even if there is only one, so that the structure of the parameter tree
  does not depend on their number. Sizes that are not multiples of spec.stride are padded with zeros at the bottom and the right, and the
  output is cropped. The output is zero at initialisation.
  """

  spec: UNetSpec
  out_channels: int = 3

  @nn.compact
  def __call__(self, z, logsnr, *, text, text_mask, is_video, fps, lowres=None, aug_logsnr=None, w=None, given=None) -> jax.Array:
    """z_t -> prediction [B, T, H, W, out_channels] in float32.

    Args:
      z: [B, T, H, W, C] noisy clip.
      logsnr: [B] in [-20, 20].
      text: [G, M, L, D] token embeddings of captions (ivid.spec.batch.CaptionLayout); [B, 1, L, D] without pictures.
      text_mask: [G, M, L] bool; all False means no text.
      is_video: [B] bool; False for independent pictures in the frames; None: all rows are pictures.
      fps: [B] frames per second.
      lowres: [B, T, H, W, C'] conditioning clip at the size of z, or None.
      aug_logsnr: [B] noise level of lowres; None exactly if lowres is None.
      w: [B] guidance weight of a distilled model, or None.
      given: frames [B, T, H, W, 3] and their mask [B, T]; frames count where it is True. None unless spec.given.
    """
    B, T, H, W, _ = z.shape
    assert (lowres is None) == (aug_logsnr is None), "lowres and aug_logsnr come together"
    assert text.shape[-1] == self.spec.text_dim, (text.shape, self.spec.text_dim)
    time = jnp.arange(T, dtype=jnp.float32) / fps.astype(jnp.float32)[:, None]
    if w is None and self.spec.second_way_up:
      w = jnp.zeros((B,), jnp.float32)
    conditioner = Conditioner(self.spec, name="condition")
    told: dict[str, Any] = dict(text=text, is_video=is_video, time=time, fps=fps, aug_logsnr=aug_logsnr, w=w)
    context = conditioner(logsnr, text_mask=text_mask, **told)
    x = z
    if self.spec.scale_input:
      x = x * jnp.sqrt(jax.nn.sigmoid(logsnr.astype(jnp.float32)))[:, None, None, None, None]
    if lowres is not None:
      x = jnp.concatenate([x, lowres.astype(z.dtype)], axis=-1)
    first: dict[str, Any] = dict(kernel=self.spec.io_kernel, names=(axes.PIXELS, axes.EMBED_OUT))
    h = pin(self._conv(self.spec.levels[0].channels, "conv_in", **first)(self._patches(x)))
    if given is not None:
      assert self.spec.given, "frames are given to a network without unet.given"
      frames, mask = given
      mask = mask.astype(z.dtype)[:, :, None, None, None]
      known = jnp.concatenate([frames.astype(z.dtype) * mask, jnp.broadcast_to(mask, (*z.shape[:-1], 1))], axis=-1)
      # It has no bias, so that it adds nothing where nothing is given.
      h = h + self._conv(self.spec.levels[0].channels, "conv_given", zero=True, bias=False, **first)(self._patches(known))
    h, skips = self._down(h, context)
    output = self._out(self._up(h, skips, context))
    if self.spec.second_way_up:
      second, no_text = dict(prefix=second_way_up.PREFIX), conditioner(logsnr, text_mask=jnp.zeros_like(text_mask), **told)
      untold = self._out(self._up(h, skips, no_text, **second), **second)
      output = output + w.astype(jnp.float32)[:, None, None, None, None] * (output - untold)
    prediction = depth_to_space(output, self.spec.patch)[:, :, :H, :W]
    if lowres is None:
      return prediction
    if self.spec.residual_std:
      return self._about_lowres(prediction, z, lowres, logsnr, aug_logsnr)  # pyright: ignore[reportArgumentType]  given together with lowres
    return prediction + self._input_path(z, lowres, context)

  def _patches(self, x: jax.Array) -> jax.Array:
    """[B, T, H, W, C], padded to a multiple of the stride and cut into patches."""
    _, _, H, W, _ = x.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (0, -H % self.spec.stride), (0, -W % self.spec.stride), (0, 0)))
    return space_to_depth(x.astype(self.spec.dtype), self.spec.patch)

  def _input_path(self, z: jax.Array, lowres: jax.Array, context: Context) -> jax.Array:
    """a z + b lowres, with a and b per channel computed from the conditioning, so that the network has to add detail but not colour.

    Ours: a learned form of the skip connection of EDM's preconditioning (2206.00364, section 5), zero at initialisation. The norms inside
    the network remove the absolute levels of a frame, and relearning them would take long.
    """
    assert z.shape[-1] == self.out_channels <= lowres.shape[-1], (z.shape, lowres.shape, self.out_channels)
    gates = Dense(2 * self.out_channels, (axes.COND, axes.PIXELS), zero=True, name="input_path", **self._kinds())(context.emb)
    a, b = jnp.split(gates.astype(jnp.float32)[:, :, None, None], 2, axis=-1)
    return a * z + b * lowres[..., : self.out_channels].astype(jnp.float32)

  def _about_lowres(self, output: jax.Array, z: jax.Array, lowres: jax.Array, logsnr: jax.Array, aug_logsnr: jax.Array) -> jax.Array:
    """The posterior mean of x plus the posterior deviation times the output, under the assumption x ~ N(c, s^2).

    c is the low-resolution clip divided by the alpha of its augmentation, and s^2 is residual_std^2 plus the variance of the augmentation.
    Given z_t, the mean is (alpha s^2 z_t + sigma^2 c) / v and the deviation sigma s / sqrt(v), with v = alpha^2 s^2 + sigma^2.
    """
    alpha2, sigma2, aug_alpha2 = (
      jax.nn.sigmoid(level.astype(jnp.float32))[:, None, None, None, None] for level in (logsnr, -logsnr, aug_logsnr)
    )
    clip = lowres[..., : self.out_channels].astype(jnp.float32) * jax.lax.rsqrt(aug_alpha2)
    s2 = self.spec.residual_std**2 + (1.0 - aug_alpha2) / aug_alpha2
    v = alpha2 * s2 + sigma2
    return (jnp.sqrt(alpha2) * s2 / v) * z + (sigma2 / v) * clip + jnp.sqrt(sigma2 * s2 / v) * output

  def _kinds(self) -> dict[str, Any]:
    return dict(dtype=jnp.dtype(self.spec.dtype), param_dtype=jnp.dtype(self.spec.param_dtype))

  def _conv(self, features: int, name: str, **options) -> Conv:
    return Conv(features, name=name, **options, **self._kinds())

  def _down(self, h: jax.Array, context: Context) -> tuple[jax.Array, list[jax.Array]]:
    """The output of the lowest level, and the skips of each level, highest level first."""
    skips = []
    for i, level in enumerate(self.spec.levels):
      if i:
        h = pin(self._conv(level.channels, f"shrink{i}", stride=2)(h))
      h, skip = self._scan(level, f"down{i}", up=False)(h, None, context)
      skips.append(skip)
    return h, skips

  def _up(self, h: jax.Array, skips: Sequence[jax.Array], context: Context, *, prefix: str = "") -> jax.Array:
    levels = self.spec.levels
    for i, level in reversed(tuple(enumerate(levels))):
      h, _ = self._scan(level, f"{prefix}up{i}", up=True)(h, skips[i], context)
      if i:
        h = pin(self._conv(levels[i - 1].channels, f"{prefix}grow{i}")(grow2(h)))
    return h

  def _out(self, h: jax.Array, *, prefix: str = "") -> jax.Array:
    """Maps the highest level to the patches of the output, in float32."""
    h = nn.silu(FrameNorm(self.spec.norm, self.spec.norm_groups, name=f"{prefix}norm_out", **self._kinds())(h))
    out, names = self.spec.patch**2 * self.out_channels, (axes.EMBED_IN, axes.PIXELS)
    h = self._conv(out, f"{prefix}conv_out", kernel=self.spec.io_kernel, names=names, zero=True)(h)
    return h.astype(jnp.float32)

  def _scan(self, level: LevelSpec, name: str, *, up: bool) -> nn.Module:
    """The blocks of one level, scanned over stacked weights; on the way up, the last skip is used first."""
    policy = jax.checkpoint_policies.save_only_these_names(*level.saved)
    block = nn.remat(Block, prevent_cse=False, policy=policy) if level.remat else Block
    scanned = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast),  # pyright: ignore[reportArgumentType]  Flax declares less than it takes
      length=level.blocks,
      unroll=min(level.unroll, level.blocks),
      reverse=up,
      metadata_params={nn.PARTITION_NAME: axes.LAYERS},
    )
    return scanned(self.spec, level, up, name=name)


def pixel_halo(spec: UNetSpec) -> int:
  """The distance in pixels, in each direction, beyond which an input cannot change an output, if tiles start at multiples of spec.stride.

  Raises:
    UserError: the network attends over space or normalises whole frames, so every pixel sees every other.
  """
  if not spec.pixel_local:
    raise UserError("its network attends over space or normalises whole frames (expected norm=rms, no spatial attention)")
  pixels, edge = 0, spec.io_kernel // 2
  reaches = [2 * level.blocks * level.residuals for level in spec.levels]  # two convolutions of 3 x 3 each
  for place in range(spec.stride):
    low = high = place // spec.patch
    low, high = low - edge, high + edge  # conv_out
    for i, reach in enumerate(reaches):
      if i:  # the convolution after upsampling to the next level, then the nearest-neighbour upsampling itself
        low, high = (low - 1) // 2, (high + 1) // 2
      low, high = low - reach, high + reach
    for i, reach in reversed(tuple(enumerate(reaches))):
      low, high = low - reach, high + reach
      if i:
        low, high = 2 * low - 1, 2 * high + 1
    low, high = (low - edge) * spec.patch, (high + edge + 1) * spec.patch - 1  # conv_in, patches
    pixels = max(pixels, place - low, high - place)
  return pixels


def frame_halo(spec: UNetSpec) -> int:
  """The distance in frames, in each direction, beyond which an input cannot change an output.

  Raises:
    UserError: the network attends over time.
  """
  if not spec.frame_local:
    raise UserError("its network attends over time")
  return sum(2 * level.blocks for level in spec.levels if level.time is TimeMixing.CONVOLUTION)
