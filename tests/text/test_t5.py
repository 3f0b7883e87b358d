"""The T5 encoder: published position buckets, masks, layout, size."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ivid.spec.cascade import TextSpec
from ivid.text import t5

SMALL = TextSpec(dim=16, layers=2, heads=2, head_dim=8, mlp_dim=24, max_tokens=32)


@pytest.fixture(scope="module")
def params():
  # Numpy instead of t5.init_params: compiling the random generators takes longer than all these tests.
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: t5.init_params(jax.random.key(0), SMALL))
  return jax.tree.map(lambda x: rng.normal(size=x.shape, scale=x.shape[0] ** -0.5).astype(np.float32), shapes)


def _apply(params, ids, mask, spec=SMALL):
  net = t5.T5Encoder(spec)
  return jax.jit(lambda *args: net.apply({"params": args[0]}, *args[1:]))(params, ids, mask)


def test_relative_buckets_table():
  # By hand for 32 buckets, distance 128: 16 a side; 0..7 exact; then 8 + floor(8 log(n / 8) / log 16), at most 15.
  distance = np.array([0, 1, 7, 8, 9, 11, 12, 15, 16, 22, 23, 31, 32, 63, 64, 90, 91, 127, 128, 1000])
  bucket = np.array([0, 1, 7, 8, 8, 8, 9, 9, 10, 10, 11, 11, 12, 13, 14, 14, 15, 15, 15, 15])
  np.testing.assert_array_equal(t5.relative_buckets(-distance, buckets=32, max_distance=128), bucket)
  ahead = t5.relative_buckets(distance, buckets=32, max_distance=128)
  np.testing.assert_array_equal(ahead, bucket + 16 * (distance > 0))


def test_nano_has_4_6_million_parameters():
  shapes = jax.eval_shape(lambda: t5.init_params(jax.random.key(0), TextSpec()))
  count = sum(x.size for x in jax.tree.leaves(shapes))
  assert abs(count - 4.6e6) < 0.46e6, count


def test_t5x_names_shapes_and_logical_axes():
  boxed = jax.eval_shape(lambda: t5.T5Encoder(SMALL).init(jax.random.key(0), jnp.zeros((1, 4), int), jnp.ones((1, 4), bool)))["params"]
  flat = traverse_util.flatten_dict(nn.meta.unbox(boxed), sep="/")
  layer = {
    "attention/query/kernel": (16, 16),
    "attention/key/kernel": (16, 16),
    "attention/value/kernel": (16, 16),
    "attention/out/kernel": (16, 16),
    "pre_attention_layer_norm/scale": (16,),
    "pre_mlp_layer_norm/scale": (16,),
    "mlp/wi_0/kernel": (16, 24),
    "mlp/wi_1/kernel": (16, 24),
    "mlp/wo/kernel": (24, 16),
  }
  want = {f"encoder/layers_{n}/{name}": shape for n in range(2) for name, shape in layer.items()}
  want |= {"token_embedder/embedding": (384, 16), "encoder/relpos_bias/rel_embedding": (2, 32), "encoder/encoder_norm/scale": (16,)}
  assert {name: x.shape for name, x in flat.items()} == want
  cheap = traverse_util.flatten_dict(t5.abstract_params(SMALL), sep="/")
  assert {name: (x.names, x.value.shape) for name, x in cheap.items()} == {
    name: (x.names, x.value.shape) for name, x in traverse_util.flatten_dict(boxed, sep="/").items()
  }
  for name, axes in traverse_util.flatten_dict(nn.get_partition_spec(boxed), sep="/").items():
    assert len(axes) == len(want[name]) and all(isinstance(axis, str) for axis in axes), (name, axes)


def test_padding_changes_no_real_token(params):
  ids = np.random.default_rng(0).integers(3, 259, (1, 12)).astype(np.int32)
  alone = _apply(params, ids, np.ones((1, 12), bool))
  padded = np.concatenate([ids, np.full((1, 9), 77, np.int32)], axis=1)
  mask = np.arange(21)[None] < 12
  np.testing.assert_allclose(_apply(params, padded, mask)[:, :12], alone, rtol=2e-5, atol=2e-6)
  unmasked = _apply(params, padded, np.ones((1, 21), bool))[:, :12]
  assert np.abs(unmasked - alone).max() > 1e-3


def _reference(params, ids):
  """One row of the same network in numpy float64, written from the published description."""

  def norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  x = p["token_embedder"]["embedding"][ids]
  L = len(ids)
  place = np.arange(L)
  bias = p["encoder"]["relpos_bias"]["rel_embedding"][:, t5.relative_buckets(place[None] - place[:, None], buckets=32, max_distance=128)]
  for n in range(SMALL.layers):
    layer = p["encoder"][f"layers_{n}"]
    h = norm(x, layer["pre_attention_layer_norm"]["scale"])
    q, k, v = ((h @ layer["attention"][name]["kernel"]).reshape(L, SMALL.heads, -1) for name in ("query", "key", "value"))
    logits = np.einsum("qhd,khd->hqk", q, k) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    x = x + np.einsum("hqk,khd->qhd", weights, v).reshape(L, -1) @ layer["attention"]["out"]["kernel"]
    h = norm(x, layer["pre_mlp_layer_norm"]["scale"])
    gate, linear = h @ layer["mlp"]["wi_0"]["kernel"], h @ layer["mlp"]["wi_1"]["kernel"]
    gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    x = x + (gelu * linear) @ layer["mlp"]["wo"]["kernel"]
  return norm(x, p["encoder"]["encoder_norm"]["scale"])


def test_equals_the_published_equations(params):
  ids = np.random.default_rng(1).integers(3, 259, 10)
  out = _apply(params, ids[None].astype(np.int32), np.ones((1, 10), bool))[0]
  np.testing.assert_allclose(out, _reference(params, ids), rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near_float32(params):
  ids, mask = np.arange(3, 15, dtype=np.int32)[None], np.ones((1, 12), bool)
  exact = _apply(params, ids, mask)
  rough = _apply(params, ids, mask, dataclasses.replace(SMALL, dtype="bfloat16"))
  assert rough.dtype == jnp.bfloat16
  np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=0.15)
