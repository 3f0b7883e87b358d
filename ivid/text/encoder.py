"""The frozen text encoder: captions to embeddings, with a cache, a hash, and its folder on disk."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from ivid import weights
from ivid.programs import Program
from ivid.spec import convert
from ivid.spec.cascade import TextSpec
from ivid.text import t5
from ivid.text.tokenizer import BYTES, make_tokenizer, pad_tokens

STORED = ml_dtypes.bfloat16
LENGTH_STEP = 16  # captions run padded to a multiple of this, so there are at most max_tokens / 16 compiled shapes
BATCH_SIZE = 8  # captions a call of the network, always: a caption's bits do not depend on its company
CACHE_SIZE = 20_000
SPEC_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "spec.json", "weights.safetensors", "tokenizer.model"


@functools.lru_cache(maxsize=8)
def _compiled(spec: TextSpec) -> Callable[..., jax.Array]:
  """The jitted network of a spec, shared by all its encoders, so that none compiles it again."""
  net = t5.T5Encoder(spec)
  return Program("text_encoder", lambda params, ids, mask: net.apply({"params": params}, ids, mask)).jit()


class TextEncoder:
  """Captions to T5 embeddings [N, L, D]; parameters are rounded to bfloat16, as they are stored. May be called from several threads."""

  def __init__(self, spec: TextSpec, params: Any, *, cache_size: int = CACHE_SIZE):
    """Args: params: nested dictionary of arrays as `t5.init_params`.

    Raises:
      ValueError: parameters that do not fit the spec, or a tokenizer larger than the vocabulary.
    """
    check_params(spec, params)
    self.spec = spec
    self.tokenizer = make_tokenizer(spec)
    self.hash = encoder_hash(spec, params)
    self._params = jax.tree.map(lambda p: np.asarray(p).astype(STORED).astype(spec.dtype), params)
    self._on_device = None
    self._run = _compiled(spec)
    self._cache: collections.OrderedDict[tuple[str, int], np.ndarray] = collections.OrderedDict()
    self._cache_size = cache_size
    self._lock = threading.Lock()

  def embed(self, captions: Sequence[str], *, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings bfloat16 [N, length, D], zero on padding, and mask bool [N, length]; `length` None means the spec's max_tokens.

    Longer captions are truncated to `length` tokens with a warning. Bits depend on the caption and `length` alone.

    Raises:
      ValueError: an empty or blank caption, or a length outside 1..max_tokens.
    """
    length = self.spec.max_tokens if length is None else length
    if not 1 <= length <= self.spec.max_tokens:
      raise ValueError(f"text length {length}: expected 1 to the encoder's max_tokens, {self.spec.max_tokens}")
    with self._lock:
      found = {c: self._cache[c, length] for c in captions if (c, length) in self._cache}
    missing = [c for c in dict.fromkeys(captions) if c not in found]
    fresh = self._encode(missing, length)
    with self._lock:
      for caption, rows in fresh.items():
        self._cache[caption, length] = rows
      for caption in dict.fromkeys(captions):
        if (caption, length) in self._cache:
          self._cache.move_to_end((caption, length))
      while len(self._cache) > self._cache_size:
        self._cache.popitem(last=False)
    found.update(fresh)
    embeddings = np.zeros((len(captions), length, self.spec.dim), STORED)
    mask = np.zeros((len(captions), length), bool)
    for n, caption in enumerate(captions):
      rows = found[caption]
      embeddings[n, : len(rows)] = rows
      mask[n, : len(rows)] = True
    return embeddings, mask

  def _encode(self, captions: Sequence[str], length: int) -> dict[str, np.ndarray]:
    """Rows [tokens, D] of each caption, from batches of BATCH_SIZE captions of one padded length."""
    groups = collections.defaultdict(list)
    for caption, ids in zip(captions, self.tokenizer.token_lists(captions, length), strict=True):
      groups[min(-(-len(ids) // LENGTH_STEP) * LENGTH_STEP, self.spec.max_tokens)].append((caption, ids))
    rows = {}
    for padded, group in groups.items():
      for start in range(0, len(group), BATCH_SIZE):
        part = group[start : start + BATCH_SIZE]
        blanks = [[]] * (BATCH_SIZE - len(part))
        ids, mask = pad_tokens([row for _, row in part] + blanks, padded, pad_id=self.tokenizer.pad_id)
        out = np.asarray(self._run(self._device_params(), ids, mask))
        for (caption, tokens), row in zip(part, out, strict=False):
          rows[caption] = row[: len(tokens)].astype(STORED)
    return rows

  def _device_params(self) -> Any:
    """The parameters as device arrays, moved there at the first call: making an encoder touches no device."""
    with self._lock:
      if self._on_device is None:
        self._on_device = jax.device_put(self._params)
      return self._on_device


def check_params(spec: TextSpec, params: Any) -> None:
  """ValueError naming the first parameter that is missing, unknown or of another shape than the spec's."""
  want = traverse_util.flatten_dict(jax.eval_shape(lambda: t5.init_params(jax.random.key(0), spec)), sep="/")
  have = traverse_util.flatten_dict(params, sep="/")
  for name in sorted(want.keys() | have.keys()):
    if name not in have:
      raise ValueError(f"text encoder {spec.name}: parameter {name} is missing, expected shape {want[name].shape}")
    if name not in want:
      raise ValueError(f"text encoder {spec.name}: unknown parameter {name}, expected {len(want)} parameters of {spec.layers} layers")
    if have[name].shape != want[name].shape:
      raise ValueError(f"text encoder {spec.name}: parameter {name} has shape {have[name].shape}, expected {want[name].shape}")


def encoder_hash(spec: TextSpec, params: Any) -> str:
  """SHA-256 (hex) over the spec's JSON and the names, shapes and bfloat16 bytes of the parameters.

  A SentencePiece model enters by its contents, not by its path, so that moving a folder keeps the hash.
  """
  described = convert.to_dict(spec)
  if spec.tokenizer != BYTES:
    described["tokenizer"] = hashlib.sha256(pathlib.Path(spec.tokenizer).read_bytes()).hexdigest()
  digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
  for name, value in sorted(traverse_util.flatten_dict(params, sep="/").items()):
    stored = np.ascontiguousarray(np.asarray(value).astype(STORED))
    digest.update(f"{name}{stored.shape}".encode())
    digest.update(stored.tobytes())
  return digest.hexdigest()


def save_encoder(folder: str | os.PathLike, spec: TextSpec, params: Any) -> None:
  """Writes spec.json and weights.safetensors (bfloat16), and a copy of the SentencePiece model if there is one."""
  check_params(spec, params)
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  digest = encoder_hash(spec, params)
  if spec.tokenizer != BYTES:
    target = folder / TOKENIZER_FILE
    if not target.exists() or not target.samefile(spec.tokenizer):
      shutil.copyfile(spec.tokenizer, folder / f".{TOKENIZER_FILE}")
      os.replace(folder / f".{TOKENIZER_FILE}", target)
    spec = dataclasses.replace(spec, tokenizer=TOKENIZER_FILE)
  weights.write_weights(folder / WEIGHTS_FILE, params, dtype=STORED, metadata={"hash": digest})
  temporary = folder / f".{SPEC_FILE}"
  temporary.write_text(convert.to_json(spec) + "\n")
  os.replace(temporary, folder / SPEC_FILE)


def load_encoder(folder: str | os.PathLike) -> TextEncoder:
  """The encoder that `save_encoder` wrote.

  Raises:
    ValueError: no or damaged files, or parameters that do not fit the spec.
  """
  folder = pathlib.Path(folder)
  path = folder / SPEC_FILE
  if not path.is_file():
    raise ValueError(f"no text encoder at {folder}: expected {SPEC_FILE} and {WEIGHTS_FILE}")
  try:
    spec = convert.from_json(TextSpec, path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is no JSON: {error}") from None
  if spec.tokenizer != BYTES:
    spec = dataclasses.replace(spec, tokenizer=str(folder / spec.tokenizer))
  return TextEncoder(spec, weights.read_weights(folder / WEIGHTS_FILE, dtype=spec.dtype))
