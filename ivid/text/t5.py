"""T5 v1.1 encoder (1910.10683; gated GELU of 2002.05202) in flax.linen, with T5X's parameter names and shapes."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ivid.nets.layers import logical
from ivid.spec.cascade import TextSpec

NORM_EPS = 1e-6
MASKED_LOGIT = -1e9  # its exp() is exactly 0 in float32, so padding never affects a real token


def relative_buckets(relative: np.ndarray, *, buckets: int, max_distance: int) -> np.ndarray:
  """Bucket of each relative position (key minus query), by T5's bidirectional rule.

  Half of the buckets are for keys behind the query. Within a half, distances below a quarter of `buckets` have their own bucket,
  farther ones share logarithmically growing ones up to `max_distance`; everything beyond falls into the last.
  """
  half = buckets // 2
  exact = half // 2
  distance = np.abs(relative)
  # Float32 and its epsilon as in the published code: the exact powers of two must not fall into the bucket below.
  eps = np.finfo(np.float32).eps
  ratio = np.log(distance.astype(np.float32) / exact + eps) / math.log(max_distance / exact)
  far = np.minimum(exact + (ratio * (half - exact)).astype(np.int32), half - 1)
  return (np.where(relative > 0, half, 0) + np.where(distance < exact, distance, far)).astype(np.int32)


def _dense_init(scale: float = 1.0):
  return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")


class Dense(nn.Module):
  """x @ kernel, no bias. Kernel [in, features] with the logical axes `axes`."""

  features: int
  axes: tuple[str, str]
  dtype: Any
  scale: float = 1.0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = logical(_dense_init(self.scale), self.axes)
    kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
    return jnp.dot(x, kernel.astype(self.dtype))


class RMSNorm(nn.Module):
  """x / sqrt(mean(x^2) + eps) * scale, statistics in float32, neither mean nor bias."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param("scale", logical(nn.initializers.ones, ("embed",)), (x.shape[-1],), jnp.float32)
    x = x.astype(jnp.float32)
    normed = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + NORM_EPS)
    return normed.astype(self.dtype) * scale.astype(self.dtype)


class RelativeBias(nn.Module):
  """Learned attention bias [1, heads, L, L] by bucketed relative position; one table serves all layers."""

  spec: TextSpec

  @nn.compact
  def __call__(self, length: int) -> jax.Array:
    spec = self.spec
    init = logical(nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"), ("heads", "relpos_buckets"))
    table = self.param("rel_embedding", init, (spec.heads, spec.relative_buckets), jnp.float32)
    place = np.arange(length)
    buckets = relative_buckets(place[None, :] - place[:, None], buckets=spec.relative_buckets, max_distance=spec.relative_distance)
    return table.astype(jnp.float32)[:, buckets][None]


class Attention(nn.Module):
  """Multi-head self-attention without 1/sqrt(head_dim): T5 folds that factor into the query's initialisation."""

  spec: TextSpec

  @nn.compact
  def __call__(self, x: jax.Array, *, mask: jax.Array, bias: jax.Array) -> jax.Array:
    """x [N, L, D], mask [N, L] True on tokens, bias [1, heads, L, L]; returns [N, L, D]."""
    N, L, D = x.shape
    spec, dtype = self.spec, x.dtype
    heads, depth = spec.heads, spec.head_dim
    into, out = ("embed", "joined_kv"), ("joined_kv", "embed")
    query = Dense(heads * depth, into, dtype, scale=1.0 / depth, name="query")(x).reshape(N, L, heads, depth)
    key = Dense(heads * depth, into, dtype, name="key")(x).reshape(N, L, heads, depth)
    value = Dense(heads * depth, into, dtype, name="value")(x).reshape(N, L, heads, depth)
    logits = jnp.einsum("nqhd,nkhd->nhqk", query, key, preferred_element_type=jnp.float32) + bias
    logits = jnp.where(mask[:, None, None, :], logits, MASKED_LOGIT)
    weights = jax.nn.softmax(logits, axis=-1).astype(dtype)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", weights, value).reshape(N, L, heads * depth)
    y = Dense(D, out, dtype, name="out")(mixed)
    assert y.shape == (N, L, D), y.shape
    return y


class GatedMLP(nn.Module):
  """(gelu(x wi_0) * (x wi_1)) wo with the tanh form of GELU (2002.05202)."""

  spec: TextSpec

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    gate = Dense(self.spec.mlp_dim, ("embed", "mlp"), x.dtype, name="wi_0")(x)
    linear = Dense(self.spec.mlp_dim, ("embed", "mlp"), x.dtype, name="wi_1")(x)
    return Dense(x.shape[-1], ("mlp", "embed"), x.dtype, name="wo")(nn.gelu(gate, approximate=True) * linear)


class Layer(nn.Module):
  """Pre-norm attention and gated MLP, each added to the stream [N, L, D]."""

  spec: TextSpec

  @nn.compact
  def __call__(self, x: jax.Array, *, mask: jax.Array, bias: jax.Array) -> jax.Array:
    h = RMSNorm(x.dtype, name="pre_attention_layer_norm")(x)
    x = x + Attention(self.spec, name="attention")(h, mask=mask, bias=bias)
    return x + GatedMLP(self.spec, name="mlp")(RMSNorm(x.dtype, name="pre_mlp_layer_norm")(x))


class Encoder(nn.Module):
  """The stack of layers over embedded tokens [N, L, D]."""

  spec: TextSpec

  @nn.compact
  def __call__(self, x: jax.Array, *, mask: jax.Array) -> jax.Array:
    bias = RelativeBias(self.spec, name="relpos_bias")(x.shape[1])
    for n in range(self.spec.layers):
      x = Layer(self.spec, name=f"layers_{n}")(x, mask=mask, bias=bias)
    return RMSNorm(x.dtype, name="encoder_norm")(x)


class TokenEmbedder(nn.Module):
  """Rows of a [vocab, D] table."""

  spec: TextSpec

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    init = logical(nn.initializers.normal(1.0), ("vocab", "embed"))
    table = self.param("embedding", init, (self.spec.vocab_size, self.spec.dim), jnp.float32)
    return jnp.take(table.astype(self.spec.dtype), ids, axis=0)


class T5Encoder(nn.Module):
  """Token ids to contextual embeddings; frozen for Imagen Video (2210.02303, section 2.2)."""

  spec: TextSpec

  @nn.compact
  def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """ids int32 [N, L], mask bool [N, L] True on tokens (EOS included); returns [N, L, D] in the spec's dtype.

    Rows of padding hold meaningless numbers, which never influence other rows.
    """
    assert ids.shape == mask.shape, (ids.shape, mask.shape)
    x = TokenEmbedder(self.spec, name="token_embedder")(ids)
    return Encoder(self.spec, name="encoder")(x, mask=mask)


@functools.lru_cache(maxsize=32)
def abstract_params(spec: TextSpec) -> dict[str, Any]:
  """Shapes, dtypes and logical axis names of the parameters; nothing is computed. It is cached: callers must not change it."""
  ids = jnp.zeros((1, 1), jnp.int32)
  one = dataclasses.replace(spec, layers=1)  # the layers are alike, and tracing dozens takes seconds
  params = jax.eval_shape(lambda: T5Encoder(one).init(jax.random.key(0), ids, jnp.ones((1, 1), bool)))["params"]
  layers = {f"layers_{n}": params["encoder"]["layers_0"] for n in range(spec.layers)}
  return params | {"encoder": params["encoder"] | layers}


def init_params(key: jax.Array, spec: TextSpec) -> dict[str, Any]:
  """A random parameter tree in float32, without the logical axis names."""
  ids = jnp.zeros((1, 1), jnp.int32)
  return nn.meta.unbox(T5Encoder(spec).init(key, ids, jnp.ones((1, 1), bool)))["params"]
