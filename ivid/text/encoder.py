"""The frozen text encoder: captions to embeddings, with a cache, a hash, and its folder on disk."""

from __future__ import annotations

import collections
import dataclasses
import functools
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

from ivid.media.files import updated_folder, whole_file, write_whole
from ivid.programs import Program
from ivid.spec import convert, formats
from ivid.spec.cascade import TextSpec
from ivid.spec.errors import UserError
from ivid.spec.files import read_spec
from ivid.spec.names import LONGEST_FILE, check_name
from ivid.spec.paths import instead_of_file, not_missing
from ivid.text import t5
from ivid.text.identity import EncoderDigest, check_params, encoder_hash
from ivid.text.placement import Placement, place
from ivid.text.tokenizer import BYTES, make_tokenizer, pad_tokens
from ivid.weights.header import HASH, read_header
from ivid.weights.tensors import open_weights, write_weights

STORED = ml_dtypes.bfloat16  # the type of embeddings everywhere outside the network
LENGTH_STEP = 16  # captions are padded to a multiple of this, so there are at most max_tokens / 16 compiled shapes
BATCH_SIZE = 8  # captions per call of the network; always the same, so a caption's bits do not depend on the other captions
IN_FLIGHT = 2  # calls that may be queued on a device before the host waits for the first
CACHE_SIZE = 20_000
SPEC_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "spec.json", "weights.safetensors", "tokenizer.model"


@functools.lru_cache(maxsize=8)
def _compiled(spec: TextSpec) -> Callable[..., jax.Array]:
  """The jitted network of a spec, shared by all of its encoders, so that it is compiled only once."""
  net = t5.T5Encoder(spec)
  return Program("text_encoder", lambda params, ids, mask: net.apply({"params": params}, ids, mask)).jit()


class TextEncoder:
  """Captions to T5 embeddings [N, L, D]; parameters are rounded to the param_dtype, as stored. May be called from several threads."""

  def __init__(
    self,
    spec: TextSpec,
    params: Any,
    *,
    digest: str = "",
    placement: Placement | None = None,
    batch_size: int = BATCH_SIZE,
    cache_size: int = CACHE_SIZE,
  ):
    """Args:
      params: nested dictionary as `t5.init_params`, of arrays, or of Leaves, read straight into their shards when needed.
      digest: the hash, if it is known; otherwise every parameter is read once to compute it.
      placement: on several devices; None: everything on the first device.
      batch_size: captions per call; a multiple of the number of shards of `placement.rows`.

    Raises:
      UserError: the parameters do not fit the spec, or the tokenizer has more ids than the vocabulary.
    """
    check_params(spec, params)
    self.spec = spec
    self.tokenizer = make_tokenizer(spec)
    self.hash = digest or encoder_hash(spec, params)
    self._params = params
    self._placement = placement
    self._batch_size = batch_size
    self._on_device = None
    self._run = _compiled(spec)
    self._cache: collections.OrderedDict[tuple[str, int], np.ndarray] = collections.OrderedDict()
    self._cache_size = cache_size
    self._lock = threading.Lock()

  def embed(self, captions: Sequence[str], *, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings bfloat16 [N, length, D], zero on padding, and mask bool [N, length]; `length` None means the spec's max_tokens.

    Longer captions are truncated to `length` tokens with a warning. The bits only depend on the caption and `length`.

    Raises:
      UserError: an empty or blank caption, or a length outside 1..max_tokens.
    """
    length = self.spec.max_tokens if length is None else length
    if not 1 <= length <= self.spec.max_tokens:
      raise UserError(f"text length {length}: expected 1 to the encoder's max_tokens, {self.spec.max_tokens}")
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

  def rows(self, captions: Sequence[str], length: int) -> dict[str, np.ndarray]:
    """Like `embed`, but one array bfloat16 [tokens, D] per caption, without padding. Does not use the cache."""
    return self._encode(list(dict.fromkeys(captions)), length)

  def release(self) -> None:
    """Frees the parameters on the devices; the next caption places them there again."""
    with self._lock:
      if self._on_device is not None:
        jax.tree.map(lambda array: array.delete(), self._on_device)
      self._on_device = None

  def _encode(self, captions: Sequence[str], length: int) -> dict[str, np.ndarray]:
    """Rows [tokens, D] of each caption, from batches of one padded length each."""
    groups = collections.defaultdict(list)
    for caption, ids in zip(captions, self.tokenizer.token_lists(captions, length), strict=True):
      groups[min(-(-len(ids) // LENGTH_STEP) * LENGTH_STEP, self.spec.max_tokens)].append((caption, ids))
    rows: dict[str, np.ndarray] = {}
    flying: collections.deque[tuple[list[tuple[str, list[int]]], jax.Array]] = collections.deque()

    def land() -> None:
      part, out = flying.popleft()
      for (caption, tokens), row in zip(part, np.asarray(out), strict=False):
        rows[caption] = row[: len(tokens)].astype(STORED)

    for padded, group in groups.items():
      for start in range(0, len(group), self._batch_size):
        part = group[start : start + self._batch_size]
        blanks = [[]] * (self._batch_size - len(part))
        batch = pad_tokens([row for _, row in part] + blanks, padded, pad_id=self.tokenizer.pad_id)
        if self._placement:
          batch = jax.device_put(batch, self._placement.rows)
        flying.append((part, self._run(self._device_params(), *batch)))
        if len(flying) >= IN_FLIGHT:
          land()
    while flying:
      land()
    return rows

  def _device_params(self) -> Any:
    """The parameters as device arrays. They are placed at the first call, so that making an encoder touches no device."""
    with self._lock:
      if self._on_device is None:
        kinds = np.dtype(self.spec.param_dtype), np.dtype(self.spec.dtype)
        if self._placement:
          self._on_device = jax.tree.map(functools.partial(place, kinds=kinds), self._params, self._placement.params)
        else:
          self._on_device = jax.tree.map(functools.partial(place, sharding=None, kinds=kinds), self._params)
      return self._on_device


def save_encoder(folder: str | os.PathLike[str], spec: TextSpec, params: Any) -> None:
  """Writes spec.json and weights.safetensors (in param_dtype), and a copy of the SentencePiece model if there is one: all at once.

  Args:
    params: arrays, or Leaves, of which only one is in memory at a time.

  Raises:
    UserError: parameters that do not fit the spec, or are NaN or infinite; the folder is then as it was.
  """
  check_params(spec, params)
  digest = EncoderDigest(spec)
  with updated_folder(folder) as fresh:
    if spec.tokenizer != BYTES:
      target = fresh / TOKENIZER_FILE
      if not target.exists() or not target.samefile(spec.tokenizer):
        with whole_file(target) as temporary:
          shutil.copyfile(spec.tokenizer, temporary)
      spec = dataclasses.replace(spec, tokenizer=TOKENIZER_FILE)
    write_weights(fresh / WEIGHTS_FILE, params, dtype=np.dtype(spec.param_dtype), digest=digest)
    write_whole(fresh / SPEC_FILE, json.dumps(formats.stamped(convert.to_dict(spec)), indent=1) + "\n")


def load_encoder(
  folder: str | os.PathLike[str], *, placement: Callable[[TextSpec], Placement] | None = None, **options: Any
) -> TextEncoder:
  """The encoder that `save_encoder` wrote. Its parameters are read one by one, now for the hash and at the first caption for the devices.

  Args:
    placement: on several devices. Each process then reads only its own parts, and uses the recorded hash.
    options: further arguments of TextEncoder.

  Raises:
    UserError: no or damaged files, or parameters that do not fit the spec.
  """
  spec, leaves = open_encoder(folder)
  if placement is not None:
    options |= dict(placement=placement(spec), digest=read_header(pathlib.Path(folder) / WEIGHTS_FILE)[1].get(HASH, ""))
  return TextEncoder(spec, leaves, **options)


def open_encoder(folder: str | os.PathLike[str]) -> tuple[TextSpec, dict[str, Any]]:
  """Spec and Leaves of the encoder in the folder; only the header of the weights is read. Raises as `load_encoder`."""
  folder = pathlib.Path(folder)
  path = folder / SPEC_FILE
  if instead_of_file(path):
    raise UserError(f"no text encoder at {folder}: expected {SPEC_FILE} and {WEIGHTS_FILE}{not_missing(path)}")
  spec = read_spec(TextSpec, path, formats.Kind.TEXT)
  if spec.tokenizer != BYTES:
    spec = dataclasses.replace(spec, tokenizer=str(folder / check_name(spec.tokenizer, f"{path}: tokenizer", longest=LONGEST_FILE)))
  return spec, traverse_util.unflatten_dict(open_weights(folder / WEIGHTS_FILE), sep="/")
