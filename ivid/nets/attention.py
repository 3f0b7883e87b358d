"""Attention over frames, over the positions of a frame, over both at once, and to the text.

Queries and keys are RMS-normalised, and the softmax is computed in float32.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from ivid.nets import axes
from ivid.nets.captions import Captions
from ivid.nets.layers import Dense, VectorNorm, kernel_init, logical, sinusoids

MASKED = -1e30  # logit of a hidden token
PACKED = 128  # tokens, the side of a TPU's matrix unit
PLACE_FEATURES = 32  # sinusoids of each coordinate
PLACE_PERIODS = (1 / 8, 8.0)  # heights of the frame


def softmax(logits: jax.Array, *, dim: int, dtype: jnp.dtype) -> jax.Array:
  """Attention weights from the unscaled logits of heads of width `dim`; computed in float32, returned as `dtype`."""
  return nn.softmax(logits.astype(jnp.float32) / math.sqrt(dim), axis=-1).astype(dtype)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
  """Softmax attention in independent groups: q [..., Q, D], k and v [..., K, D] -> [..., Q, D]. A False `mask` hides a key from a query."""
  logits = (q @ k.swapaxes(-1, -2)).astype(jnp.float32)
  if mask is not None:
    logits = jnp.where(mask, logits, MASKED)
  return softmax(logits, dim=q.shape[-1], dtype=v.dtype) @ v


def attend_or_null(q: jax.Array, k: jax.Array, v: jax.Array, *, null_k: jax.Array, null_v: jax.Array, mask: jax.Array) -> jax.Array:
  """`attend` with one more key and value, [..., 1, D], which all groups share and which is never masked.

  The extra token is computed apart from the others, because 257 tokens would be padded to 384 in a TPU's tiles of 128.
  """
  scale = 1.0 / math.sqrt(q.shape[-1])
  logits = jnp.where(mask, (q @ k.swapaxes(-1, -2)).astype(jnp.float32) * scale, MASKED)
  null = jnp.sum(q.astype(jnp.float32) * null_k.astype(jnp.float32), axis=-1, keepdims=True) * scale
  top = jax.lax.stop_gradient(jnp.maximum(jnp.max(logits, axis=-1, keepdims=True), null))
  weights, null = jnp.exp(logits - top), jnp.exp(null - top)
  total = jnp.sum(weights, axis=-1, keepdims=True) + null
  return (weights / total).astype(v.dtype) @ v + (null / total).astype(v.dtype) * null_v


def attend_over_frames(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attention of every position over its own frames: q, k and v [B, T, heads, P, D] -> [B, T, heads, P, D]."""
  return jax.lax.platform_dependent(q, k, v, cpu=attend_each_position, default=attend_packed)


def attend_each_position(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """`attend_over_frames` as one attention over T tokens per position."""
  q, k, v = (a.transpose(0, 3, 2, 1, 4) for a in (q, k, v))
  return attend(q, k, v).transpose(0, 3, 2, 1, 4)


def attend_packed(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """`attend_over_frames` with several positions packed into one attention over up to PACKED tokens; a mask keeps the positions apart.

  An attention over 16 tokens leaves a matrix unit of 128 x 128 nearly empty. Tokens are ordered (frame, position), so that positions and
  channels stay adjacent in memory.
  """
  B, T, heads, P, D = q.shape
  pack = max(n for n in range(1, max(PACKED // T, 1) + 1) if P % n == 0)
  shape = (B, T, heads, P // pack, pack, D)
  q, k, v = (a.reshape(shape).transpose(0, 2, 3, 1, 4, 5).reshape(B, heads, P // pack, T * pack, D) for a in (q, k, v))
  place = jnp.arange(T * pack) % pack
  h = attend(q, k, v, mask=place[:, None] == place)
  return h.reshape(B, heads, P // pack, T, pack, D).transpose(0, 3, 1, 2, 4, 5).reshape(B, T, heads, P, D)


def project(x: jax.Array, kernel: jax.Array, *, head_dim: int) -> jax.Array:
  """Dense layer into heads, with the heads before the positions: x [..., P, C], kernel [C, features] -> [..., heads, P, head_dim].

  The last two axes, which TPUs store in tiles, are then the positions and channels of a head. A small number of heads is not padded to a
  tile, and a norm over the channels of a head costs a third of what it would cost with [..., P, heads, head_dim].
  """
  return jnp.einsum("...pc,cnd->...npd", x, kernel.reshape(kernel.shape[0], -1, head_dim))


def join(h: jax.Array, kernel: jax.Array) -> jax.Array:
  """Dense layer out of heads: h [..., heads, P, head_dim], kernel [heads head_dim, features] -> [..., P, features]."""
  heads, _, head_dim = h.shape[-3:]
  return jnp.einsum("...npd,ndc->...pc", h, kernel.reshape(heads, head_dim, -1))


class Project(nn.Module):
  """`project` with its kernel as a parameter."""

  features: int
  head_dim: int
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = logical(kernel_init(zero=False), (axes.EMBED_IN, axes.EMBED_OUT))
    kernel = self.param("kernel", init, (x.shape[-1], self.features), self.param_dtype)
    return project(x.astype(self.dtype), kernel.astype(self.dtype), head_dim=self.head_dim)


class Heads(nn.Module):
  """[..., P, C] -> [..., heads, P, head_dim], a dense layer, RMS-normalised if `norm`."""

  features: int
  head_dim: int
  norm: bool
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kinds: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    h = checkpoint_name(Project(self.features, self.head_dim, name="dense", **kinds)(x), "heads")
    return VectorNorm(axes.HEAD_DIM, name="norm", **kinds)(h) if self.norm else h


class Out(nn.Module):
  """[..., heads, P, head_dim] -> [..., P, features], zero-initialised."""

  features: int
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, h: jax.Array) -> jax.Array:
    heads, _, head_dim = h.shape[-3:]
    init = logical(kernel_init(zero=True), (axes.EMBED_IN, axes.EMBED_OUT))
    kernel = self.param("kernel", init, (heads * head_dim, self.features), self.param_dtype)
    init = logical(nn.initializers.zeros_init(), (axes.CHANNELS,))
    bias = self.param("bias", init, (self.features,), self.param_dtype)
    return checkpoint_name(join(h, kernel.astype(self.dtype)) + bias.astype(self.dtype), "out")


class Attention(nn.Module):
  """What all kinds of attention share: projections of C channels into heads, and a zero-initialised projection out of them."""

  head_dim: int
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  def heads(self, name: str, *, features: int) -> Heads:
    return Heads(features, self.head_dim, norm=name != "value", name=name, dtype=self.dtype, param_dtype=self.param_dtype)

  def out(self, *, features: int) -> Out:
    return Out(features, dtype=self.dtype, param_dtype=self.param_dtype, name="out")


class TemporalAttention(Attention):
  """Every position attends over its own T frames; each frame is told its time in seconds."""

  @nn.compact
  def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
    """x [B, T, H, W, C], time [B, T, features] -> [B, T, H, W, C]."""
    B, T, H, W, C = x.shape
    place = Dense(C, (axes.FEATURES, axes.EMBED_OUT), bias=False, dtype=self.dtype, param_dtype=self.param_dtype, name="time")(time)
    h = (x + place[:, :, None, None]).reshape(B * T, H * W, C)
    q, k, v = (self.heads(name, features=C)(h) for name in ("query", "key", "value"))
    q, k, v = (a.reshape(B, T, *a.shape[1:]) for a in (q, k, v))
    h = attend_over_frames(q, k, v)
    return self.out(features=C)(h.reshape(B * T, *h.shape[2:])).reshape(x.shape)


class JointAttention(Attention):
  """Every position attends to all positions of all frames, or in a picture to its own positions; each is told its time and place."""

  @nn.compact
  def __call__(self, x: jax.Array, time: jax.Array, is_video: jax.Array | None) -> jax.Array:
    """x [B, T, H, W, C], time [B, T, features], is_video [B] bool or, if no row is a video, None -> [B, T, H, W, C]."""
    B, T, H, W, C = x.shape
    kinds: dict[str, Any] = dict(bias=False, dtype=self.dtype, param_dtype=self.param_dtype)
    when = Dense(C, (axes.FEATURES, axes.EMBED_OUT), name="time", **kinds)(time)
    where = Dense(C, (axes.FEATURES, axes.EMBED_OUT), name="place", **kinds)(_places(H, W))
    # A picture has a place among the frames, but no time.
    when = 0.0 if is_video is None else jnp.where(is_video[:, None, None], when, 0.0)[:, :, None, None]
    groups = B * T if is_video is None else B
    h = (x + when + where).reshape(groups, -1, C)
    q, k, v = (self.heads(name, features=C)(h) for name in ("query", "key", "value"))
    mask = None
    if is_video is not None and T > 1:
      frame = jnp.arange(T * H * W) // (H * W)
      mask = is_video[:, None, None, None] | (frame[:, None] == frame)
    return self.out(features=C)(attend(q, k, v, mask=mask)).reshape(x.shape)


def _places(height: int, width: int) -> jax.Array:
  """[H, W, features] sinusoids of the cell centres of a grid, y before x, in units of the height of the frame."""
  y, x = ((jnp.arange(count, dtype=jnp.float32) + 0.5) / height for count in (height, width))
  y, x = (sinusoids(a, PLACE_FEATURES, shortest=PLACE_PERIODS[0], longest=PLACE_PERIODS[1]) for a in (y, x))
  shape = (height, width, PLACE_FEATURES)
  return jnp.concatenate([jnp.broadcast_to(y[:, None], shape), jnp.broadcast_to(x, shape)], axis=-1)


class SpatialAttention(Attention):
  """Every position attends to all positions of its frame."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, T, H, W, C] -> the same shape."""
    B, T, H, W, C = x.shape
    h = x.reshape(B * T, H * W, C)
    q, k, v = (self.heads(name, features=C)(h) for name in ("query", "key", "value"))
    return self.out(features=C)(attend(q, k, v)).reshape(x.shape)


class TextAttention(Attention):
  """Every position attends to the tokens of its caption and to one learned token; without text, only the learned token is left."""

  @nn.compact
  def __call__(self, x: jax.Array, pictures: Captions, clips: Captions) -> jax.Array:
    """x [B, T, H, W, C] and the captions of all its rows (pictures and clips) -> [B, T, H, W, C]."""
    B, T, H, W, C = x.shape
    groups, _, length, D = clips.tokens.shape
    query, key, value = (self.heads(name, features=C) for name in ("query", "key", "value"))
    out = self.out(features=C)
    init = logical(nn.initializers.normal(1.0), (axes.TEXT,))
    null = self.param("null", init, (D,), self.param_dtype).astype(clips.tokens.dtype)[None]
    nothing = dict(null_k=key(null), null_v=value(null))

    def attended(rows: jax.Array, said: Captions) -> jax.Array:
      """[G, rows, T, P, C]; each caption is read by the same number of consecutive positions."""
      q = query(rows.reshape(said.mask.size // length, -1, C))
      tokens, mask = said.tokens.reshape(-1, length, D), said.mask.reshape(-1, 1, 1, length)
      return out(attend_or_null(q, key(tokens), value(tokens), mask=mask, **nothing)).reshape(rows.shape)

    images = pictures.tokens.shape[1] // T
    parts = jnp.split(x.reshape(groups, B // groups, T, H * W, C), [images], axis=1)
    results = [attended(rows, said) for rows, said in zip(parts, (pictures, clips), strict=True) if rows.size]
    return jnp.concatenate(results, axis=1).reshape(x.shape)
