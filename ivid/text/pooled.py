"""Embeddings of a fixed set of captions, computed once and memory-mapped. All other captions go to the encoder.

A folder holds key.json (what made them) and, for each shard of the captions in alphabetical order, counts-N.npy (tokens of each) and
rows-N.npy (bfloat16 as uint16, [tokens of all, D], without padding). A shard is complete once its rows exist, which are written whole or
not at all. Reading rows costs a copy: 64 captions take half a millisecond, a fifth of the time for records.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ivid.media.files import whole_file
from ivid.media.scratch import lock_file, sweep
from ivid.spec.errors import UserError
from ivid.text.arrays import load_array
from ivid.text.encoder import STORED, TextEncoder
from ivid.text.stored import KEY_FILE, Key, make_key, read_key, write_key

SHARD_SIZE = 512
BITS = np.uint16  # .npy files have no bfloat16
LOCK_FILE = "lock"


def write_pool(
  out: str | os.PathLike[str],
  encoder: TextEncoder,
  captions: Iterable[str],
  *,
  length: int,
  shard_size: int = SHARD_SIZE,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> pathlib.Path:
  """Writes the embeddings of all different captions into a folder below `out` and returns it; existing shards are kept.

  Only one process writes into a folder at a time. Others wait for it, and continue its work if it is stopped.

  Args:
    progress: called with (captions done, captions), unless all of them exist already.
  """
  texts = sorted(set(captions))
  key = make_key(encoder, texts, length=length, shard_size=shard_size)
  folder = pathlib.Path(out) / f"{key.folder}-{key.digest[:12]}"
  if (folder / KEY_FILE).is_file() and read_key(folder) != key:
    raise UserError(f"{folder} holds other embeddings than its name says: expected to find those of {key}; delete it")
  sweep(folder)
  if _count(folder, key) == key.shards:
    return folder
  with lock_file(folder / LOCK_FILE, waiting=lambda: progress(_done(folder, key), len(texts))):
    write_key(folder, key)
    for n in range(key.shards):
      progress(_done(folder, key), len(texts))
      if not _rows_file(folder, n).is_file():
        part = texts[n * shard_size : (n + 1) * shard_size]
        rows = encoder.rows(part, length)
        counts = np.array([len(rows[text]) for text in part], np.int32)
        joined = np.concatenate([rows[text] for text in part]).view(BITS)
        for file, array in ((_counts_file(folder, n), counts), (_rows_file(folder, n), joined)):
          with whole_file(file) as path:
            np.save(path, array)
    progress(len(texts), len(texts))
  return folder


class PooledEmbedder:
  """An Embedder that reads what `write_pool` wrote, and asks the encoder for other captions and lengths. Threads may share it."""

  def __init__(self, folder: str | os.PathLike[str], encoder: TextEncoder, captions: Iterable[str]):
    """Args: captions: those that `folder` was written with, in any order.

    Raises:
      UserError: the folder is for another encoder or other captions, or is unfinished or damaged.
    """
    self.folder, self._encoder, self.hash = pathlib.Path(folder), encoder, encoder.hash
    texts = sorted(set(captions))
    self._key = key = read_key(self.folder)
    want = make_key(encoder, texts, length=key.length, shard_size=key.shard_size)
    if key != want:
      field = next(f.name for f in dataclasses.fields(Key) if getattr(key, f.name) != getattr(want, f.name))
      raise UserError(f"{self.folder}: {field} is {getattr(key, field)}, expected {getattr(want, field)}")
    there = _count(self.folder, key)
    if there < key.shards:
      raise UserError(f"{self.folder} is unfinished: {there} of {key.shards} shards; the same command goes on with it")
    self._places: dict[str, np.ndarray] = {}
    for n in range(key.shards):
      part = texts[n * key.shard_size : (n + 1) * key.shard_size]
      counts = load_array(_counts_file(self.folder, n), (len(part),), np.int32)
      rows = load_array(_rows_file(self.folder, n), (-1, key.dim), BITS)
      if counts.min() < 1 or counts.max() > key.length or len(rows) != counts.sum():
        raise UserError(f"{_rows_file(self.folder, n)} is damaged: {rows.shape}, expected {(int(counts.sum()), key.dim)}; delete it")
      self._places.update(zip(part, np.split(np.asarray(rows), np.cumsum(counts)[:-1]), strict=True))

  def embed(self, captions: Sequence[str], *, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings bfloat16 [N, length, D], zero on padding, and mask bool [N, length]: the encoder's own, bit for bit.

    Raises:
      UserError: as the encoder's, of captions that are not in the pool.
    """
    length = self._encoder.spec.max_tokens if length is None else length
    if length != self._key.length:
      return self._encoder.embed(captions, length=length)
    embeddings = np.zeros((len(captions), length, self._key.dim), BITS)
    mask = np.zeros((len(captions), length), bool)
    others: list[int] = []
    for n, caption in enumerate(captions):
      rows = self._places.get(caption)
      if rows is None:
        others.append(n)
      else:
        embeddings[n, : len(rows)] = rows
        mask[n, : len(rows)] = True
    embeddings = embeddings.view(STORED)
    if others:
      embeddings[others], mask[others] = self._encoder.embed([captions[n] for n in others], length=length)
    return embeddings, mask


def _counts_file(folder: pathlib.Path, n: int) -> pathlib.Path:
  return folder / f"counts-{n:05}.npy"


def _rows_file(folder: pathlib.Path, n: int) -> pathlib.Path:
  return folder / f"rows-{n:05}.npy"


def _count(folder: pathlib.Path, key: Key) -> int:
  """Shards that are there."""
  return sum(_rows_file(folder, n).is_file() for n in range(key.shards))


def _done(folder: pathlib.Path, key: Key) -> int:
  """Captions that are there."""
  return min(_count(folder, key) * key.shard_size, key.captions)
