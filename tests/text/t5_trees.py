"""A small T5 in every form that checkpoints come in; the expected tree is numpy's own."""

import json

import flax.linen as nn
import flax.serialization
import jax
import numpy as np
import safetensors.numpy
import tensorstore as ts
from flax import traverse_util

from ivid.spec.cascade import TextSpec
from ivid.text import t5

SPEC = TextSpec(name="t5", vocab_size=300, dim=16, layers=2, heads=2, head_dim=4, mlp_dim=24, max_tokens=32, param_dtype="float32")


def flat(dtype=np.float32, spec=SPEC):
  """Random parameters by name."""
  rng = np.random.default_rng(0)
  shapes = traverse_util.flatten_dict(jax.eval_shape(lambda: t5.init_params(jax.random.key(0), spec)), sep="/")
  return {name: (rng.normal(size=leaf.shape) * leaf.shape[0] ** -0.5).astype(dtype) for name, leaf in shapes.items()}


def nested(params):
  return traverse_util.unflatten_dict(params, sep="/")


def torch_names(params, *, copy=True):
  """The same parameters as Hugging Face names and turns them."""
  kernels = dict(query="q", key="k", value="v", out="o")
  turned = (lambda array: array.T.copy()) if copy else (lambda array: array.T)
  found = {"shared.weight": params["token_embedder/embedding"]}
  bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
  for name, array in params.items():
    parts = name.split("/")
    if name == "encoder/relpos_bias/rel_embedding":
      found[bias] = turned(array)
    elif name == "encoder/encoder_norm/scale":
      found["encoder.final_layer_norm.weight"] = array
    elif parts[1].startswith("layers_"):
      block, kind = f"encoder.block.{parts[1].removeprefix('layers_')}.", parts[2]
      if kind == "attention":
        found[f"{block}layer.0.SelfAttention.{kernels[parts[3]]}.weight"] = turned(array)
      elif kind == "mlp":
        found[f"{block}layer.1.DenseReluDense.{parts[3]}.weight"] = turned(array)
      else:
        found[f"{block}layer.{int(kind == 'pre_mlp_layer_norm')}.layer_norm.weight"] = array
  assert len(found) == len(params)
  return found


def write_sharded(folder, state, shards=2):
  """model-0000N-of-0000M.safetensors and their index."""
  names = sorted(state)
  weight_map = {}
  for n in range(shards):
    file = f"model-{n + 1:05}-of-{shards:05}.safetensors"
    part = {name: state[name] for name in names[n::shards]}
    safetensors.numpy.save_file(part, folder / file)
    weight_map |= dict.fromkeys(part, file)
  (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
  return weight_map


FORMS = ("kvstore", "older", "placeholder", "alone")


def write_zarr(folder, params, form):
  """A T5X folder made with tensorstore and msgpack alone, two chunks an array.

  Args:
    form: where `checkpoint` says that an array lies: inside kvstore, beside it as before tensorstore 0.1.14 (as written on cloud
      storage), by a placeholder, or there is no such file.
  """
  tree = {}
  for name, array in params.items():
    place = "target." + name.replace("/", ".")
    metadata = {"shape": list(array.shape), "chunks": [-(-array.shape[0] // 2), *array.shape[1:]], "compressor": {"id": "gzip", "level": 1}}
    spec = {"driver": "zarr", "dtype": array.dtype.name, "metadata": metadata}
    store = ts.open({**spec, "kvstore": {"driver": "file", "path": f"{folder / place}/"}}, create=True).result()
    store.write(array).result()
    if form == "kvstore":
      tree[name] = {**spec, "kvstore": {"driver": "file", "path": place}}
    elif form == "older":
      tree[name] = {**spec, "kvstore": {"driver": "gcs", "bucket": "t5x-dummy-bucket"}, "path": place, "transform": {"input_rank": 1}}
    else:
      tree[name] = f"PLACEHOLDER://{place}"
  if form != "alone":
    decoder = {"decoder/decoder_norm/scale": np.ones(3, np.float32)}
    content = {"version": 3, "optimizer": {"target": nested(tree | decoder), "state": {"step": 5, "param_states": {}}}}
    (folder / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(content))


def write_two_gigabytes(folder):
  """A sharded checkpoint of T5 v1.1 XL's widths with 9 layers, 2 GB in float32; bytes of the largest shard."""
  folder.mkdir()
  spec = TextSpec(vocab_size=32_128, dim=2048, layers=9, heads=32, head_dim=64, mlp_dim=5120)
  shapes = traverse_util.flatten_dict(nn.meta.unbox(t5.abstract_params(spec)), sep="/")
  # The names and turned shapes of views of one zero, then real arrays shard by shard.
  names = torch_names({name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in shapes.items()}, copy=False)
  rng, weight_map = np.random.default_rng(0), {}
  for n in range(4):
    file = f"model-{n + 1:05}-of-00004.safetensors"
    part = {name: rng.standard_normal(names[name].shape, np.float32) for name in sorted(names)[n::4]}
    safetensors.numpy.save_file(part, folder / file)
    weight_map |= dict.fromkeys(part, file)
  (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
  return max(path.stat().st_size for path in folder.glob("*.safetensors"))
