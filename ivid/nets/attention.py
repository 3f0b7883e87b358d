"""Attention over frames, over a frame's positions, and to the text; queries and keys RMS-normalised, softmax in float32."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from ivid.nets import axes
from ivid.nets.layers import Dense, VectorNorm

MASKED = -1e30  # logit of a hidden token


def softmax(logits: jax.Array, *, dim: int, dtype: jnp.dtype) -> jax.Array:
  """Weights from unscaled logits of heads of width `dim`, in float32, then `dtype`."""
  return nn.softmax(logits.astype(jnp.float32) / math.sqrt(dim), axis=-1).astype(dtype)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
  """Softmax attention of N independent groups, [N, Q, heads, D] and [N, K, heads, D] twice -> [N, Q, heads, D].

  Groups and heads are brought together in front, so that both products are plain batched ones: the CPU is two to three times
  as fast at those as at products whose batch axes stand apart.

  Args:
    mask: [N, K] bool, False hides a key.
  """
  N, Q, heads, D = q.shape
  q, k, v = (a.swapaxes(1, 2).reshape(N * heads, -1, D) for a in (q, k, v))
  logits = (q @ k.swapaxes(1, 2)).astype(jnp.float32)
  if mask is not None:
    logits = jnp.where(jnp.repeat(mask, heads, axis=0)[:, None], logits, MASKED)
  out = softmax(logits, dim=D, dtype=v.dtype) @ v
  return out.reshape(N, heads, Q, D).swapaxes(1, 2)


class Heads(nn.Module):
  """[..., C] -> [..., heads, head_dim], a dense layer, RMS-normalised if `norm`."""

  features: int
  head_dim: int
  norm: bool
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    h = Dense(self.features, bias=False, dtype=self.dtype, param_dtype=self.param_dtype, name="dense")(x)
    h = h.reshape(*x.shape[:-1], self.features // self.head_dim, self.head_dim)
    return VectorNorm(axes.HEAD_DIM, dtype=self.dtype, param_dtype=self.param_dtype, name="norm")(h) if self.norm else h


class Attention(nn.Module):
  """Shared parts of the three kinds: projections of C channels into heads and a zero-initialised way out."""

  head_dim: int
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  def heads(self, x: jax.Array, name: str, *, features: int) -> jax.Array:
    kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    return Heads(features, self.head_dim, norm=name != "value", name=name, **kinds)(x)

  def out(self, h: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return Dense(shape[-1], zero=True, dtype=self.dtype, param_dtype=self.param_dtype, name="out")(h.reshape(shape))


class TemporalAttention(Attention):
  """Every position attends over its own T frames; each frame carries its time in seconds."""

  @nn.compact
  def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
    """x [B, T, H, W, C], time [B, T, features] -> [B, T, H, W, C]."""
    B, T, H, W, C = x.shape
    place = Dense(C, (axes.FEATURES, axes.EMBED_OUT), bias=False, dtype=self.dtype, param_dtype=self.param_dtype, name="time")(time)
    h = (x + place[:, :, None, None]).reshape(B, T, H * W, C)
    heads = (self.heads(h, name, features=C) for name in ("query", "key", "value"))
    q, k, v = (a.swapaxes(1, 2).reshape(B * H * W, T, -1, self.head_dim) for a in heads)
    h = attend(q, k, v).reshape(B, H * W, T, C).swapaxes(1, 2)
    return self.out(h, x.shape)


class SpatialAttention(Attention):
  """Every position attends to all positions of its frame."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, T, H, W, C] -> the same shape."""
    B, T, H, W, C = x.shape
    h = x.reshape(B * T, H * W, C)
    q, k, v = (self.heads(h, name, features=C) for name in ("query", "key", "value"))
    return self.out(attend(q, k, v), x.shape)


class TextAttention(Attention):
  """Every position attends to the tokens of its caption and to one learned token, which is all there is without text."""

  @nn.compact
  def __call__(self, x: jax.Array, text: jax.Array, text_mask: jax.Array) -> jax.Array:
    """x [B, T, H, W, C], text [B, K, L, D], text_mask [B, K, L], K in {1, T} -> [B, T, H, W, C]."""
    B, T, H, W, C = x.shape
    K, D = text.shape[1], text.shape[3]
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), (axes.TEXT,))
    null = self.param("null", init, (D,), self.param_dtype).astype(text.dtype)
    tokens = jnp.concatenate([jnp.broadcast_to(null, (B, K, 1, D)), text], axis=2)
    mask = jnp.pad(text_mask, ((0, 0), (0, 0), (1, 0)), constant_values=True)
    q = self.heads(x.reshape(B * K, T // K * H * W, C), "query", features=C)
    tokens = tokens.reshape(B * K, -1, D)
    k = self.heads(tokens, "key", features=C)
    v = self.heads(tokens, "value", features=C)
    return self.out(attend(q, k, v, mask=mask.reshape(B * K, -1)), x.shape)
