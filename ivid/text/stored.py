"""Embeddings of a data set's captions, computed once: ArrayRecord files in bfloat16, without padding.

A folder holds key.json (what made them), index.npy (the sorted digests of the captions, where entry n belongs to record n; index-second.npy
has 64 more bits of each digest), and the records in that order, cut into shards. Each shard is written whole or not at all, so that a
stopped run does not compute finished shards again.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgpack
import numpy as np
from array_record.python import array_record_data_source

from ivid.media.copies import local_copy
from ivid.media.files import naming_errors, whole_file
from ivid.media.places import is_remote, local_file, open_folder
from ivid.media.records import writing_records
from ivid.media.scratch import sweep
from ivid.spec.errors import UserError, first_line
from ivid.text.arrays import load_array
from ivid.text.encoder import STORED, TextEncoder
from ivid.text.identity import tokenizer_hash
from ivid.text.key import KEY_FILE, Key, read_key, write_key

INDEX_FILE, SECOND_FILE = "index.npy", "index-second.npy"
SHARD_SIZE = 1024  # captions; 0.5 GB if T5-XXL makes 64 tokens per caption
HELD = 1 << 18  # number of captions whose texts are in memory at a time
POLL_SECONDS = 0.2
SHOWN_CHARACTERS = 60


def caption_digest(caption: str) -> int:
  """The first 64 bits of the caption's SHA-256."""
  return int.from_bytes(hashlib.sha256(caption.encode("utf-8")).digest()[:8], "big")


def make_key(encoder: TextEncoder, captions: Sequence[str], *, length: int, shard_size: int) -> Key:
  """The key of these captions, in this order, embedded by the encoder."""
  whole = hashlib.sha256()
  for text in captions:
    whole.update(text.encode("utf-8") + b"\0")
  return _key(encoder, len(captions), whole.hexdigest(), length=length, shard_size=shard_size)


def _key(encoder: TextEncoder, captions: int, digest: str, *, length: int, shard_size: int) -> Key:
  spec = encoder.spec
  return Key(spec.name, encoder.hash, tokenizer_hash(spec), length, spec.dim, captions, shard_size, digest)


def write_embeddings(
  out: str | os.PathLike[str],
  encoder: TextEncoder,
  captions: Iterable[str],
  *,
  length: int,
  shard_size: int = SHARD_SIZE,
  process_index: int = 0,
  process_count: int = 1,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> pathlib.Path:
  """Writes the embeddings of all different captions below `out` and returns their folder; existing shards are kept.

  Captions are streamed: all digests are in memory, but only the texts of HELD captions at a time.

  Args:
    captions: in any order; iterating must be repeatable, as for a list. Blank captions are left out, because they are no text.
    length: number of tokens to which captions are truncated, with a warning.
    process_index, process_count: each process writes every process_count-th shard, on its own devices.
    progress: called with (shards done, shards) of this process.

  Raises:
    UserError: there is no caption, or the folder holds embeddings of other captions.
  """
  folder = index_captions(out, encoder, captions, length=length, shard_size=shard_size, write=process_index == 0)
  write_shards(folder, encoder, captions, process_index=process_index, process_count=process_count, progress=progress)
  return folder


def index_captions(
  out: str | os.PathLike[str], encoder: TextEncoder, captions: Iterable[str], *, length: int, shard_size: int, write: bool = True
) -> pathlib.Path:
  """Returns the folder of these captions' embeddings; writes its key and index if it has none. Arguments and errors: write_embeddings."""
  pairs = _different(captions)
  if not len(pairs):
    raise UserError("the data set has no caption that is not blank: expected at least one to embed")
  key = _key(encoder, len(pairs), hashlib.sha256(pairs.tobytes()).hexdigest(), length=length, shard_size=shard_size)
  folder = open_folder(out, "--out") / key.folder
  if not is_remote(out):
    with naming_errors(folder):
      folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
  if (folder / KEY_FILE).is_file():
    have = read_key(folder)
    if have != key:
      field = next(f.name for f in dataclasses.fields(Key) if getattr(have, f.name) != getattr(key, f.name))
      raise UserError(
        f"{folder} holds embeddings of other captions or shards ({field} is {getattr(have, field)}, now {getattr(key, field)}): "
        "expected a new folder"
      )
  elif write:
    for name, column in ((SECOND_FILE, 1), (INDEX_FILE, 0)):
      with whole_file(folder / name) as path:
        np.save(path, pairs[:, column])
    write_key(folder, key)
  return folder


def write_shards(
  folder: pathlib.Path,
  encoder: TextEncoder,
  captions: Iterable[str],
  *,
  process_index: int = 0,
  process_count: int = 1,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
  """Writes the missing shards of this process into a folder that `index_captions` made. Arguments as of write_embeddings."""
  while not (folder / KEY_FILE).is_file():  # another process is about to write it
    time.sleep(POLL_SECONDS)
  key = read_key(folder)
  mine = range(process_index, key.shards, process_count)
  missing = [n for n in mine if not (folder / key.shard(n)).is_file()]
  progress(len(mine) - len(missing), len(mine))
  with contextlib.ExitStack() as stack:
    files = [stack.enter_context(local_file(folder / name)) for name in (INDEX_FILE, SECOND_FILE)]
    bounds = [np.array(load_array(file, (key.captions,), np.uint64)) for file in files]
  held = max(1, HELD // key.shard_size)
  for start in range(0, len(missing), held):
    chosen = missing[start : start + held]
    for n, part in zip(chosen, _of_shards(captions, bounds, chosen, key), strict=True):
      with whole_file(folder / key.shard(n)) as path:
        _write_shard(path, part, encoder.rows(part, key.length))
      progress(sum((folder / key.shard(n)).is_file() for n in mine), len(mine))


def _digests(caption: str) -> tuple[int, int]:
  """128 bits that tell captions apart, in the order of the records."""
  return caption_digest(caption), int.from_bytes(hashlib.sha256(caption.encode("utf-8")).digest()[8:16], "big")


def _different(captions: Iterable[str]) -> np.ndarray:
  """Digests uint64 [N, 2] of all different captions that are not blank, sorted."""
  found = np.zeros((0, 2), np.uint64)
  texts = (text for text in captions if text.strip())
  while part := [_digests(text) for text in itertools.islice(texts, HELD)]:
    found = np.unique(np.concatenate([found, np.array(part, np.uint64)]), axis=0)
  return found


def _of_shards(captions: Iterable[str], bounds: Sequence[np.ndarray], chosen: Sequence[int], key: Key) -> list[list[str]]:
  """The captions of each of these shards in order, in one pass over all of them."""
  ends = [(n * key.shard_size, min((n + 1) * key.shard_size, key.captions) - 1) for n in chosen]
  first = [tuple(int(words[low]) for words in bounds) for low, _ in ends]
  last = [tuple(int(words[high]) for words in bounds) for _, high in ends]
  found: list[dict[tuple[int, int], str]] = [{} for _ in chosen]
  for text in captions:
    if text.strip():
      digests = _digests(text)
      place = bisect.bisect_right(first, digests) - 1
      if place >= 0 and digests <= last[place]:
        found[place][digests] = text
  return [[part[digests] for digests in sorted(part)] for part in found]


def _write_shard(path: pathlib.Path, captions: Sequence[str], rows: dict[str, np.ndarray]) -> None:
  with writing_records(path) as write:
    for caption in captions:
      write(msgpack.packb({"caption": caption, "rows": np.ascontiguousarray(rows[caption]).tobytes()}))  # pyright: ignore[reportArgumentType]  msgpack gives None only to a file


class StoredEmbeddings:
  """An Embedder that reads what `write_embeddings` wrote and needs no T5. A blank caption means no text: its mask is all False."""

  def __init__(self, folder: str | os.PathLike[str]):
    """Args: folder: one with key.json, or one that holds exactly one such folder.

    Raises:
      UserError: there are no embeddings, several, or not all of them are written.
    """
    self.folder = _find(local_copy(folder, "data.embeddings"))
    self.key = read_key(self.folder)
    self.hash = self.key.weights
    files = [self.folder / self.key.shard(n) for n in range(self.key.shards)]
    there = sum(file.is_file() for file in files)
    if there < len(files):
      raise UserError(f"{self.folder} is unfinished: {there} of {len(files)} shards; the same `ivid data embed` goes on with it")
    self._index = load_array(self.folder / INDEX_FILE, (self.key.captions,), np.uint64)
    try:
      self._records = array_record_data_source.ArrayRecordDataSource([str(file) for file in files])
      len(self._records)
    except (RuntimeError, ValueError, OSError) as error:  # array_record raises these for a truncated or damaged file
      raise UserError(f"{self.folder} is damaged: {first_line(error)}") from None
    if len(self._index) != len(self._records):
      raise UserError(f"{self.folder} is damaged: {len(self._records)} records, expected {len(self._index)} as in {INDEX_FILE}")

  def embed(self, captions: Sequence[str], *, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings bfloat16 [N, length, D], zero on padding, and mask bool [N, length], as TextEncoder gives them.

    Raises:
      UserError: they were computed for another length, or a caption is not among them.
    """
    key = self.key
    if length not in (None, key.length):
      raise UserError(f"text length {length}: {self.folder} was embedded with {key.length}, which max_tokens of the cascade's text must be")
    embeddings = np.zeros((len(captions), key.length, key.dim), STORED)
    mask = np.zeros((len(captions), key.length), bool)
    for n, caption in enumerate(captions):
      if caption.strip():
        rows = self._rows(caption)
        embeddings[n, : len(rows)] = rows
        mask[n, : len(rows)] = True
    return embeddings, mask

  def _rows(self, caption: str) -> np.ndarray:
    digest = np.uint64(caption_digest(caption))
    place = int(np.searchsorted(self._index, digest))
    while place < len(self._index) and self._index[place] == digest:
      record = self._record(place)
      if record["caption"] == caption:
        return np.frombuffer(record["rows"], STORED).reshape(-1, self.key.dim)
      place += 1
    shown = caption if len(caption) <= SHOWN_CHARACTERS else caption[:SHOWN_CHARACTERS] + "..."
    raise UserError(f"{self.folder} has no embedding of {shown!r}: expected one of the {self.key.captions} captions it was made from")

  def _record(self, place: int) -> dict[str, Any]:
    """A caption and its rows. Raises UserError if they are damaged."""
    try:
      record = msgpack.unpackb(self._records[place])
    except (RuntimeError, ValueError, msgpack.UnpackException) as error:
      raise UserError(f"record {place} of {self.folder} is damaged: {first_line(error)}") from None
    rows = record.get("rows") if isinstance(record, dict) and isinstance(record.get("caption"), str) else None
    if not isinstance(rows, bytes) or len(rows) % (2 * self.key.dim) or not 0 < len(rows) <= 2 * self.key.dim * self.key.length:
      raise UserError(f"record {place} of {self.folder} is damaged: expected a caption, and rows of {self.key.dim} values")
    return record


def _find(folder: pathlib.Path) -> pathlib.Path:
  if (folder / KEY_FILE).is_file():
    return folder
  inner = sorted(path.parent for path in folder.glob(f"*/{KEY_FILE}"))
  if not inner:
    raise UserError(f"no embeddings at {folder}: expected a folder with {KEY_FILE}, as `ivid data embed` writes it")
  if len(inner) > 1:
    raise UserError(f"{folder} holds several embeddings: expected the path of one of {', '.join(path.name for path in inner)}")
  return inner[0]
