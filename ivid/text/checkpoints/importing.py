"""Turns public T5 checkpoints of any known form into our text encoders."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from flax import traverse_util

from ivid.spec.cascade import TextSpec
from ivid.spec.errors import UserError
from ivid.spec.paths import instead_of_file, not_missing
from ivid.spec.t5 import BYT5_ROWS, BYTES, MAX_TOKENS, SPECS, published_name, t5_spec
from ivid.text.checkpoints import huggingface
from ivid.text.checkpoints import t5x as t5x_format
from ivid.text.checkpoints.huggingface import HuggingFaceConfig
from ivid.text.encoder import check_params, save_encoder
from ivid.text.tokenizer import make_tokenizer
from ivid.weights.tensors import Leaf

TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
FORMS = "a T5X folder (`checkpoint` and zarr arrays), a T5X msgpack file, or Hugging Face safetensors"
_FLOATS = ("float64", "float32", "float16", "bfloat16")


def open_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Leaf], HuggingFaceConfig]:
  """The encoder's Leaves by T5X's names (flat), and Hugging Face's config (its defaults where there is none). Nothing large is read.

  Raises:
    UserError: it is missing, of no known form, damaged, or only a decoder.
  """
  found, config = _open(path)
  leaves = {name: leaf for name, leaf in found.items() if not name.startswith("decoder/")}
  if not any(name.startswith("encoder/") for name in leaves):
    what = "a decoder but no encoder" if len(leaves) < len(found) else "no parameter of a T5 encoder"
    raise UserError(f"{path} holds {what}: expected parameters such as encoder/layers_0/attention/query/kernel")
  return leaves, config


def _open(path: str | os.PathLike[str]) -> tuple[dict[str, Leaf], HuggingFaceConfig]:
  if t5x_format.is_url(path):
    return t5x_format.open_t5x(path), HuggingFaceConfig()
  path = pathlib.Path(path)
  if not path.is_dir() and instead_of_file(path):
    raise UserError(f"no checkpoint at {path}: expected {FORMS}{not_missing(path)}")
  if path.suffix == ".safetensors" or path.name.endswith(huggingface.INDEX_SUFFIX):
    return huggingface.open_huggingface(path), huggingface.read_config(path)
  if path.is_file():
    if path.suffix in TORCH_SUFFIXES:
      raise UserError(f"{path} is a torch pickle, which can run code when read: expected safetensors (save_pretrained writes them)")
    return t5x_format.open_t5x(path), HuggingFaceConfig()
  if any(path.glob("*.safetensors")):
    return huggingface.open_huggingface(path), huggingface.read_config(path)
  if t5x_format.is_t5x_folder(path):
    return t5x_format.open_t5x(path), HuggingFaceConfig()
  inner = sorted(folder.name for folder in path.iterdir() if folder.is_dir() and t5x_format.is_t5x_folder(folder))
  if inner:
    raise UserError(f"{path} is a folder of checkpoints: expected one of {', '.join(str(path / name) for name in inner)}")
  names = ", ".join(sorted(file.name for file in path.iterdir())[:5])
  torch = ": torch pickles are not read" if any(file.suffix in TORCH_SUFFIXES for file in path.iterdir()) else ""
  raise UserError(f"{path} holds {names or 'nothing'}{torch}; expected {FORMS}")


def infer_spec(
  leaves: Mapping[str, Leaf], *, tokenizer: str, dtype: str, param_dtype: str, max_tokens: int, distance: int = 128
) -> TextSpec:
  """The spec that follows from the parameters' shapes, named after the published encoder of the same size.

  Args:
    distance: relative positions beyond it share a bucket. It is the one size that no shape tells; 128 in all published encoders.

  Raises:
    UserError: a parameter that tells a size is missing or not a matrix; or it is T5 v1.0, which has no gate.
  """
  if "encoder/layers_0/mlp/wi/kernel" in leaves or "encoder.block.0.layer.1.DenseReluDense.wi.weight" in leaves:
    raise UserError("the checkpoint is of T5 v1.0, whose MLP has no gate (one wi): expected T5 v1.1 or ByT5 (wi_0 and wi_1)")

  def shape(name: str) -> tuple[int, int]:
    if name not in leaves:
      raise UserError(f"parameter {name} is missing")
    if len(leaves[name].shape) != 2:
      raise UserError(f"parameter {name} has shape {leaves[name].shape}, expected a matrix")
    rows, columns = leaves[name].shape
    return rows, columns

  rows, dim = shape(huggingface.EMBEDDING)
  heads, buckets = shape("encoder/relpos_bias/rel_embedding")
  joined = shape("encoder/layers_0/attention/query/kernel")[1]
  numbers = [int(found[1]) for found in (re.match(r"encoder/layers_(\d+)/", name) for name in leaves) if found]
  if not heads or joined % heads:
    raise UserError(
      f"encoder/layers_0/attention/query/kernel has {joined} columns: expected a multiple of the {heads} heads of rel_embedding"
    )
  spec = TextSpec(
    name="t5",
    tokenizer=tokenizer,
    vocab_size=rows,
    dim=dim,
    layers=max(numbers) + 1,
    heads=heads,
    head_dim=joined // heads,
    mlp_dim=shape("encoder/layers_0/mlp/wi_0/kernel")[1],
    relative_buckets=buckets,
    relative_distance=distance,
    max_tokens=max_tokens,
    dtype=dtype,
    param_dtype=param_dtype,
  )
  name = published_name(spec)
  return t5_spec(name, tokenizer=tokenizer, dtype=dtype, param_dtype=param_dtype, max_tokens=max_tokens) if name in SPECS else spec


def import_encoder(
  source: str | os.PathLike[str],
  out: str | os.PathLike[str],
  *,
  tokenizer: str = "",
  size: str = "",
  name: str = "",
  dtype: str = "bfloat16",
  param_dtype: str = "",
  max_tokens: int = MAX_TOKENS,
) -> TextSpec:
  """Writes `out` (see ivid.text.encoder.save_encoder) from a public checkpoint, one parameter in memory at a time.

  Args:
    tokenizer: "bytes" or the path of a SentencePiece model; empty: spiece.model beside the weights, or bytes for ByT5's 384 rows.
    size: name of the published encoder (ivid.spec.t5) that the checkpoint must be; empty: the one that its shapes tell.
    name: of the encoder; empty: its published name, or t5.
    dtype: that the network computes in.
    param_dtype: that the weights are kept in; empty: like dtype.

  Raises:
    UserError: as `open_checkpoint`; a missing, unknown or wrongly shaped parameter, by name; no tokenizer, or one too large.
  """
  leaves, config = open_checkpoint(source)
  kinds: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype or dtype, max_tokens=max_tokens)
  try:
    if size:
      spec = t5_spec(size, **kinds)
      if config.relative_attention_max_distance != spec.relative_distance:
        distance = config.relative_attention_max_distance
        raise UserError(f"relative_attention_max_distance={distance}: expected {spec.relative_distance}, which {size} has")
    else:
      spec = infer_spec(leaves, tokenizer=BYTES, distance=config.relative_attention_max_distance, **kinds)
    spec = dataclasses.replace(spec, name=name or spec.name, tokenizer=tokenizer or _tokenizer_beside(source, spec))
    params = traverse_util.unflatten_dict(leaves, sep="/")
    check_params(spec, params)
    for key, leaf in leaves.items():
      if leaf.dtype.name not in _FLOATS:
        raise UserError(f"parameter {key} has type {leaf.dtype.name}: expected one of {', '.join(_FLOATS)}")
  except ValueError as error:
    raise UserError(f"{source}: {error}") from None
  make_tokenizer(spec)
  save_encoder(out, spec, params)
  return spec


def _tokenizer_beside(source: str | os.PathLike[str], spec: TextSpec) -> str:
  if spec.vocab_size == BYT5_ROWS:
    return BYTES
  if not t5x_format.is_url(source):
    path = pathlib.Path(source)
    beside = (path if path.is_dir() else path.parent) / huggingface.SENTENCEPIECE
    if beside.is_file():
      return str(beside)
  raise UserError(f"--tokenizer is missing: an embedding of {spec.vocab_size} rows needs the path of its SentencePiece .model")
