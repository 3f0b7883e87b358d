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
    q, k, v = (self.heads(h, name, features=C) for name in ("query", "key", "value"))
    weights = softmax(jnp.einsum("btphd,bsphd->bphts", q, k), dim=self.head_dim, dtype=self.dtype)
    return self.out(jnp.einsum("bphts,bsphd->btphd", weights, v), x.shape)


class SpatialAttention(Attention):
  """Every position attends to all positions of its frame."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, T, H, W, C] -> the same shape."""
    B, T, H, W, C = x.shape
    h = x.reshape(B * T, H * W, C)
    q, k, v = (self.heads(h, name, features=C) for name in ("query", "key", "value"))
    weights = softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k), dim=self.head_dim, dtype=self.dtype)
    return self.out(jnp.einsum("nhqk,nkhd->nqhd", weights, v), x.shape)


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
    q = self.heads(x.reshape(B, K, T // K * H * W, C), "query", features=C)
    k = self.heads(tokens, "key", features=C)
    v = self.heads(tokens, "value", features=C)
    logits = jnp.einsum("bkqhd,bklhd->bkhql", q, k).astype(jnp.float32)
    logits = jnp.where(mask[:, :, None, None], logits, MASKED)
    weights = softmax(logits, dim=self.head_dim, dtype=self.dtype)
    return self.out(jnp.einsum("bkhql,bklhd->bkqhd", weights, v), x.shape)
