"""Hugging Face's safetensors of T5 v1.1 and ByT5 (`T5EncoderModel`, `T5ForConditionalGeneration`), single files and sharded ones."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Annotated, Any

from ivid.spec.errors import UserError, shown
from ivid.spec.files import as_spec, read_json
from ivid.spec.limits import MOST_TOKENS
from ivid.spec.names import LONGEST_FILE, check_name
from ivid.spec.ranges import Range, check_ranges
from ivid.text.t5 import NORM_EPS as EPSILON
from ivid.weights.tensors import Leaf, open_weights

INDEX_SUFFIX = ".safetensors.index.json"
CONFIG, SENTENCEPIECE = "config.json", "spiece.model"
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")  # the same table, under either name or both
TABLE_BLOCK = 1 << 22  # values compared at a time
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
    UserError: there are no such files, one is damaged, the index misplaces a parameter, or two tables of embeddings differ.
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
    if others:
      _check_same(first, others[0], f"{path}: {' and '.join(EMBEDDINGS)}")
    leaves[EMBEDDING] = first
  return leaves


def _check_same(one: Leaf, other: Leaf, said: str) -> None:
  """Raises UserError unless both tables are equal. They are read in parts of TABLE_BLOCK values."""
  if one.shape != other.shape or len(one.shape) != 2:
    raise UserError(f"{said} have shapes {one.shape} and {other.shape}: expected the same table")
  rows, columns = one.shape
  step = max(1, TABLE_BLOCK // max(1, columns))
  for start in range(0, rows, step):
    part = (slice(start, min(start + step, rows)), slice(0, columns))
    differ = (one.read(part) != other.read(part)).any(axis=1)
    if differ.any():
      raise UserError(f"{said} differ, first in row {start + int(differ.argmax())}: expected the same table")


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
  if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(file, str) for file in weight_map.values()):
    raise UserError(f"{path} has no 'weight_map' of file names: expected the index of a sharded checkpoint")
  for name, file in weight_map.items():
    check_name(file, f"{path}: file of parameter {shown(name)}", longest=LONGEST_FILE)
  shards = {file: open_weights(path.parent / file) for file in sorted(set(weight_map.values()))}
  for name, file in weight_map.items():
    if name not in shards[file]:
      raise UserError(f"{path}: parameter {name} is missing in {file}, where the index says it is")
  for file, leaves in shards.items():
    for name in leaves:
      if weight_map.get(name) != file:
        raise UserError(f"{path}: parameter {name} of {file} is not in the index")
  return {name: shards[file][name] for name, file in weight_map.items()}


@dataclasses.dataclass(frozen=True)
class HuggingFaceConfig:
  """The values of a config.json that change what an encoder of these shapes computes, with T5Config's defaults. Shapes tell the rest.

  Values that our encoder does not support are refused: another activation or another epsilon of the norms.
  """

  feed_forward_proj: str = "gated-gelu"
  layer_norm_epsilon: float = EPSILON
  relative_attention_max_distance: Annotated[int, Range(2, MOST_TOKENS)] = 128

  def __post_init__(self):
    check_ranges(self, "")
    if self.feed_forward_proj != "gated-gelu":
      raise UserError(f"feed_forward_proj={shown(self.feed_forward_proj)}: expected 'gated-gelu', as T5 v1.1 and ByT5 have it")
    if self.layer_norm_epsilon != EPSILON:
      raise UserError(f"layer_norm_epsilon={self.layer_norm_epsilon!r}: expected {EPSILON!r}, which all published T5 and ByT5 have")


def read_config(path: pathlib.Path) -> HuggingFaceConfig:
  """The config.json beside the checkpoint; the defaults if there is none.

  Raises:
    UserError: it is not JSON, has values of wrong types, or describes a model other than T5 v1.1 or ByT5.
  """
  file = (path if path.is_dir() else path.parent) / CONFIG
  if not file.is_file():
    return HuggingFaceConfig()
  found = _json(file)
  names = [field.name for field in dataclasses.fields(HuggingFaceConfig)]
  return as_spec(HuggingFaceConfig, {name: found[name] for name in names if name in found}, source=file)


def _json(path: pathlib.Path) -> dict[str, Any]:
  found = read_json(path)
  if not isinstance(found, dict):
    raise UserError(f"{path} holds a {type(found).__name__}: expected a JSON object")
  return found
