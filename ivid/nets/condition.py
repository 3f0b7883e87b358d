"""What every block of the U-Net reads: noise levels, frame rate, guidance weight and text (Imagen Video, section 2.3)."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ivid.nets import axes, captions
from ivid.nets.layers import Dense, VectorNorm, logical, sinusoids
from ivid.spec.stage import UNetSpec

FEATURES = 64  # sinusoids of a scalar
# (shortest, longest) period: short enough for the differences that occur, longer than the range.
LOGSNR_PERIODS = (0.5, 100.0)  # logsnr in [-20, 20]
RATE_PERIODS = (0.5, 16.0)  # log2 of frames per second, -1 to 7
GUIDANCE_PERIODS = (0.5, 64.0)  # w in [0, 30]
TIME_PERIODS = (1 / 16, 32.0)  # seconds, 5.3 in the paper's clips


class Context(NamedTuple):
  """Inputs shared by all blocks.

  Attributes:
    emb: [B, K, E] conditioning vector after its SiLU; K is T if there are pictures or frame times, else 1.
    text: captions of pictures and of clips. Their tokens are normalised and, if the spec has a text_width, projected to it.
    is_video: [B] bool; time mixing is off where it is False, and not computed at all if it is None.
    time: [B, T, FEATURES] sinusoids of each frame's time in seconds.
  """

  emb: jax.Array
  text: tuple[captions.Captions, captions.Captions]
  is_video: jax.Array | None
  time: jax.Array


class ScalarEmbedding(nn.Module):
  """[B] -> [B, features]: sinusoids, then two dense layers."""

  features: int
  periods: tuple[float, float]
  zero: bool = False
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, values: jax.Array) -> jax.Array:
    h = sinusoids(values, FEATURES, shortest=self.periods[0], longest=self.periods[1])
    h = Dense(self.features, (axes.FEATURES, axes.COND), param_dtype=self.param_dtype)(h)
    return Dense(self.features, (axes.COND, axes.COND), zero=self.zero, param_dtype=self.param_dtype)(nn.silu(h))


class PooledText(nn.Module):
  """[G, M, L, D] -> [G, M, features]: masked mean of the tokens, norm, dense; a learned vector if no token is valid."""

  features: int
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, text: jax.Array, text_mask: jax.Array) -> jax.Array:
    weight = text_mask.astype(jnp.float32)[..., None]
    pooled = jnp.sum(text.astype(jnp.float32) * weight, axis=2) / jnp.maximum(weight.sum(2), 1.0)
    pooled = VectorNorm(axes.TEXT, center=True, param_dtype=self.param_dtype)(pooled)
    pooled = Dense(self.features, (axes.EMBED_IN, axes.COND), param_dtype=self.param_dtype)(pooled)
    init = logical(nn.initializers.normal(0.02), (axes.COND,))
    null = self.param("null", init, (self.features,), self.param_dtype).astype(jnp.float32)
    return jnp.where(text_mask.any(2)[..., None], pooled, null)


class Conditioner(nn.Module):
  """Builds the Context, all in float32: it is small, and logsnr needs the precision."""

  spec: UNetSpec

  @nn.compact
  def __call__(self, logsnr, *, text, text_mask, is_video, time, fps, aug_logsnr=None, w=None) -> Context:
    """logsnr, is_video, fps, aug_logsnr, w: [B]; text [G, M, L, D]; time [B, T] in seconds. aug_logsnr has weights only if it is given."""
    E, dtype, param_dtype = self.spec.embed_dim, jnp.dtype(self.spec.dtype), jnp.dtype(self.spec.param_dtype)
    emb = ScalarEmbedding(E, LOGSNR_PERIODS, param_dtype=param_dtype, name="logsnr")(logsnr)
    if aug_logsnr is not None:
      emb = emb + ScalarEmbedding(E, LOGSNR_PERIODS, param_dtype=param_dtype, name="aug_logsnr")(aug_logsnr)
    if is_video is not None:  # a single picture has no rate
      rate = ScalarEmbedding(E, RATE_PERIODS, param_dtype=param_dtype, name="fps")(jnp.log2(fps.astype(jnp.float32)))
      emb = emb + jnp.where(is_video[:, None], rate, 0.0)
    # The weights exist whether or not w is given; the compiler removes the arithmetic if nothing uses it.
    embed_w = ScalarEmbedding(E, GUIDANCE_PERIODS, zero=True, param_dtype=param_dtype, name="w")
    guidance = embed_w(jnp.zeros_like(logsnr) if w is None else w)
    if w is not None:
      emb = emb + guidance
    sizes = dict(batch_size=time.shape[0], frames=time.shape[1])
    pooled = PooledText(E, param_dtype=param_dtype, name="pooled_text")(text, text_mask)
    emb = emb[:, None] + captions.per_frame(pooled, **sizes)
    time = sinusoids(time, FEATURES, shortest=TIME_PERIODS[0], longest=TIME_PERIODS[1])
    if self.spec.frame_time and is_video is not None:
      names = (axes.FEATURES, axes.COND)
      when = Dense(E, names, zero=True, bias=False, param_dtype=param_dtype, name="frame_time")(time)
      emb = emb + jnp.where(is_video[:, None, None], when, 0.0)
    text = VectorNorm(axes.TEXT, center=True, dtype=dtype, param_dtype=param_dtype, name="text_norm")(text)
    if self.spec.text_patch > 1:
      text, text_mask = _joined(text, text_mask, self.spec.text_patch)
    if self.spec.text_width:
      text = Dense(self.spec.text_width, (axes.EMBED_IN, axes.TEXT), dtype=dtype, param_dtype=param_dtype, name="text_proj")(text)
    text = captions.split(text, text_mask, **sizes)
    return Context(emb=nn.silu(emb).astype(dtype), text=text, is_video=is_video, time=time.astype(dtype))


def _joined(text: jax.Array, mask: jax.Array, patch: int) -> tuple[jax.Array, jax.Array]:
  """[G, M, L, D] -> [G, M, ceil(L / patch), patch D], zeros for masked tokens. A joined token is valid if any of its tokens is."""
  G, M, L, D = text.shape
  text = jnp.pad(text * mask[..., None].astype(text.dtype), ((0, 0), (0, 0), (0, -L % patch), (0, 0)))
  mask = jnp.pad(mask, ((0, 0), (0, 0), (0, -L % patch)))
  return text.reshape(G, M, -1, patch * D), mask.reshape(G, M, -1, patch).any(-1)
