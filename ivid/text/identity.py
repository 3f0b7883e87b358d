"""What a text encoder is: parameters that fit its spec, and the hash that stages and embeddings record of it."""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
from typing import Any

import flax.linen as nn
import numpy as np
from flax import traverse_util

from ivid.spec import convert
from ivid.spec.cascade import TextSpec
from ivid.spec.errors import UserError
from ivid.text import t5
from ivid.text.tokenizer import BYTES


def check_params(spec: TextSpec, params: Any) -> None:
  """Raises UserError, which names the first parameter that is missing, unknown or has another shape than in the spec."""
  want = _abstract(spec)
  have: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
  for name in sorted(want.keys() | have.keys()):
    if name not in have:
      raise UserError(f"text encoder {spec.name}: parameter {name} is missing, expected shape {want[name].shape}")
    if name not in want:
      raise UserError(f"text encoder {spec.name}: unknown parameter {name}, expected {len(want)} parameters of {spec.layers} layers")
    if have[name].shape != want[name].shape:
      raise UserError(f"text encoder {spec.name}: parameter {name} has shape {have[name].shape}, expected {want[name].shape}")


@functools.lru_cache(maxsize=8)
def _abstract(spec: TextSpec) -> dict[str, Any]:
  """Shapes of the spec's parameters by their flat names; tracing them takes longer than reading a small encoder."""
  return traverse_util.flatten_dict(nn.meta.unbox(t5.abstract_params(spec)), sep="/")


class EncoderDigest:
  """SHA-256 over the spec's JSON and the names, shapes and bytes of the parameters in their stored type, fed in the order of the names.

  A SentencePiece model is hashed by its contents and not by its path, so that moving a folder keeps the hash.
  """

  def __init__(self, spec: TextSpec):
    described = convert.to_dict(spec)
    if spec.tokenizer != BYTES:
      described["tokenizer"] = tokenizer_hash(spec)
    if spec.param_dtype == "bfloat16":
      del described["param_dtype"]  # at first there was no other type, so hashes do not include this one
    self._digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())

  def update(self, name: str, array: np.ndarray) -> None:
    self._digest.update(f"{name}{array.shape}".encode())
    self._digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

  def hexdigest(self) -> str:
    return self._digest.hexdigest()


def tokenizer_hash(spec: TextSpec) -> str:
  """SHA-256 of the SentencePiece model; "bytes" for bytes."""
  return BYTES if spec.tokenizer == BYTES else hashlib.sha256(pathlib.Path(spec.tokenizer).read_bytes()).hexdigest()


def encoder_hash(spec: TextSpec, params: Any) -> str:
  """EncoderDigest of arrays or Leaves, one of them in memory at a time."""
  digest = EncoderDigest(spec)
  for name, value in sorted(traverse_util.flatten_dict(params, sep="/").items()):
    digest.update(name, np.asarray(value).astype(spec.param_dtype, copy=False))
  return digest.hexdigest()
