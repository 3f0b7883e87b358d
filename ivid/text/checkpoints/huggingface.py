"""Hugging Face's safetensors of T5 v1.1 and ByT5 (`T5EncoderModel`, `T5ForConditionalGeneration`), single files and sharded ones."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

from ivid.spec.errors import UserError
from ivid.weights.tensors import Leaf, open_weights

INDEX_SUFFIX = ".safetensors.index.json"
CONFIG, SENTENCEPIECE = "config.json", "spiece.model"
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")  # the same table, under one name or both
IGNORED = ("decoder.", "lm_head.")

# Torch's name below encoder.block.N, ours below encoder/layers_N. Torch's matrices are [out, in], ours [in, out].
_LAYER = {
  "layer.0.SelfAttention.q.weight": "attention/query/kernel",
  "layer.0.SelfAttention.k.weight": "attention/key/kernel",
  "layer.0.SelfAttention.v.weight": "attention/value/kernel",
  "layer.0.SelfAttention.o.weight": "attention/out/kernel",
  "layer.0.layer_norm.weight": "pre_attention_layer_norm/scale",
  "layer.1.DenseReluDense.wi_0.weight": "mlp/wi_0/kernel",
  "layer.1.DenseReluDense.wi_1.weight": "mlp/wi_1/kernel",
  "layer.1.DenseReluDense.wo.weight": "mlp/wo/kernel",
  "layer.1.layer_norm.weight": "pre_mlp_layer_norm/scale",
}
_WHOLE = {
  "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "encoder/relpos_bias/rel_embedding",
  "encoder.final_layer_norm.weight": "encoder/encoder_norm/scale",
}
EMBEDDING = "token_embedder/embedding"


def open_huggingface(path: pathlib.Path) -> dict[str, Leaf]:
  """Leaves by T5X's names; a parameter without a counterpart keeps its own name, decoders' as decoder/...

  Args:
    path: a .safetensors file, an index (*.safetensors.index.json), or a folder with either.

  Raises:
    UserError: no such files, a damaged one, a parameter that the index does not place right, or two tables of embeddings that differ.
  """
  leaves: dict[str, Leaf] = {}
  tables: dict[str, Leaf] = {}
  for name, leaf in _all(path).items():
    if name in EMBEDDINGS:
      tables[name] = leaf
    else:
      leaves.update([_renamed(name, leaf)])
  if tables:
    first, *others = (tables[name] for name in EMBEDDINGS if name in tables)
    if others and others[0].shape != first.shape:
      raise UserError(f"{path}: {' and '.join(EMBEDDINGS)} have shapes {first.shape} and {others[0].shape}: expected the same table")
    leaves[EMBEDDING] = first
  return leaves


def _renamed(name: str, leaf: Leaf) -> tuple[str, Leaf]:
  if name.startswith(IGNORED):
    return "decoder/" + name.removeprefix("decoder."), leaf
  block = re.fullmatch(r"encoder\.block\.(\d+)\.(.+)", name)
  known = _WHOLE.get(name) or (block and block[2] in _LAYER and f"encoder/layers_{block[1]}/{_LAYER[block[2]]}")
  if not known:
    return name, leaf
  return known, leaf.T if len(leaf.shape) == 2 else leaf


def _all(path: pathlib.Path) -> dict[str, Leaf]:
  if path.is_dir():
    indices, files = sorted(path.glob(f"*{INDEX_SUFFIX}")), sorted(path.glob("*.safetensors"))
    if len(indices) > 1 or (not indices and len(files) > 1):
      names = ", ".join(file.name for file in (indices or files))
      raise UserError(f"{path} has several checkpoints: expected the path of one of {names}")
    path = (indices or files)[0]
  if not path.name.endswith(INDEX_SUFFIX):
    return open_weights(path)
  weight_map = _json(path).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise UserError(f"{path} has no 'weight_map': expected the index of a sharded checkpoint")
  shards = {file: open_weights(path.parent / file) for file in sorted(set(weight_map.values()))}
  for name, file in weight_map.items():
    if name not in shards[file]:
      raise UserError(f"{path}: parameter {name} is missing in {file}, where the index says it is")
  for file, leaves in shards.items():
    for name in leaves:
      if weight_map.get(name) != file:
        raise UserError(f"{path}: parameter {name} of {file} is not in the index")
  return {name: shards[file][name] for name, file in weight_map.items()}


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """config.json beside the checkpoint, {} if there is none.

  Raises:
    UserError: a model that is no T5 v1.1 or ByT5.
  """
  file = (path if path.is_dir() else path.parent) / CONFIG
  if not file.is_file():
    return {}
  config = _json(file)
  activation = config.get("feed_forward_proj", "gated-gelu")
  if activation != "gated-gelu":
    raise UserError(f"{file}: feed_forward_proj={activation!r}: expected 'gated-gelu', as T5 v1.1 and ByT5 have it")
  return config


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise UserError(f"{path} is no JSON: {error}") from None
  if not isinstance(found, dict):
    raise UserError(f"{path} holds a {type(found).__name__}: expected a JSON object")
  return found
