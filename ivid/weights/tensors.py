"""Parameter trees as safetensors files: flat names joined by '/', written whole or not at all, read at once or part by part."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Protocol

import numpy as np
from flax import traverse_util

from ivid.media.files import whole_file
from ivid.spec.errors import UserError
from ivid.weights.finite import check_finite
from ivid.weights.header import DTYPES, HASH, METADATA, read_header

READ_BLOCK = 1 << 26  # bytes read at a time if only some columns are wanted


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A parameter that is still in its file.

  Attributes:
    shape, dtype: of the whole array.
    read: one slice with explicit bounds per axis -> that part.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[tuple[slice, ...]], np.ndarray]

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    array = self.read(tuple(slice(0, n) for n in self.shape))
    return array if dtype is None else array.astype(dtype)

  @property
  def T(self) -> Leaf:
    """The transposed matrix, as lazy as this one."""
    return Leaf(self.shape[::-1], self.dtype, lambda index: self.read(index[::-1]).T)


class Digest(Protocol):
  """The hash that `write_weights` updates with the stored arrays."""

  def update(self, name: str, array: np.ndarray) -> None: ...
  def hexdigest(self) -> str: ...


def write_weights(
  path: str | os.PathLike[str], params: Any, *, dtype: Any = None, metadata: Mapping[str, str] | None = None, digest: Digest | None = None
) -> None:
  """Writes a nested dictionary of arrays, one in memory at a time, under a temporary name until it is complete; errors leave nothing.

  Args:
    params: arrays or Leaves.
    dtype: floating ones are cast to it.
    digest: updated with names and stored arrays, in the order of the names if all have one type; its hexdigest (64 characters) becomes
      metadata["hash"].

  Raises:
    UserError: a value that is NaN or infinite, or becomes so in `dtype`; or the file cannot be written.
  """
  flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
  kinds = {name: np.dtype(value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype) for name, value in flat.items()}
  stored = {name: kind if dtype is None or kind.kind in "iub" else np.dtype(dtype) for name, kind in kinds.items()}
  names = sorted(flat, key=lambda name: (-stored[name].itemsize, name))  # larger types first: every array is aligned
  notes = dict(metadata or {}) | ({HASH: "0" * 64} if digest else {})
  header: dict[str, Any] = {METADATA: notes} if notes else {}
  end = 0
  for name in names:
    start, end = end, end + math.prod(np.shape(flat[name])) * stored[name].itemsize
    header[name] = {"dtype": _type_name(stored[name]), "shape": list(np.shape(flat[name])), "data_offsets": [start, end]}
  with whole_file(path) as temporary, open(temporary, "wb") as file:
    _write_header(file, header)
    for name in names:
      with np.errstate(over="ignore"):  # which the next line says in full
        array = np.ascontiguousarray(np.asarray(flat[name]).astype(stored[name], copy=False))
      check_finite(array, f"{pathlib.Path(path).name} is not written: parameter {name}")
      file.write(array.reshape(-1).view(np.uint8).data)
      if digest:
        digest.update(name, array)
    if digest:
      notes[HASH] = digest.hexdigest()
      file.seek(0)
      _write_header(file, header)  # of the same length


def _write_header(file: BinaryIO, header: dict[str, Any]) -> None:
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  file.write(len(text).to_bytes(8, "little") + text)


def _type_name(dtype: np.dtype) -> str:
  return next(name for name, known in DTYPES.items() if known == dtype)


def open_weights(path: str | os.PathLike[str]) -> dict[str, Leaf]:
  """Leaves of a safetensors file by their flat names, each a finite_leaf. Only the header is read.

  Raises:
    UserError: as `read_header`; or a type that parameters cannot have, which is named.
  """
  header, _, start = read_header(path)
  leaves = {}
  for name, entry in header.items():
    if entry["dtype"] not in DTYPES:
      raise UserError(f"{path}: parameter {name} has type {entry['dtype']}, expected one of {', '.join(DTYPES)}")
    leaf = file_leaf(path, start + entry["data_offsets"][0], tuple(entry["shape"]), DTYPES[entry["dtype"]])
    leaves[name] = finite_leaf(leaf, f"{path}: parameter {name}")
  return leaves


def finite_leaf(leaf: Leaf, said: str) -> Leaf:
  """The same Leaf, except that reading a part with NaN or infinite values raises a UserError that begins with `said`."""
  return Leaf(leaf.shape, leaf.dtype, lambda index: check_finite(leaf.read(index), said))


def file_leaf(path: str | os.PathLike[str], offset: int, shape: tuple[int, ...], dtype: np.dtype) -> Leaf:
  """The C-ordered array that starts at byte `offset` of a file. Read, not mapped: mapped pages would count as this process's memory."""

  def read(index: tuple[slice, ...]) -> np.ndarray:
    with open(path, "rb") as file:
      if not shape:
        file.seek(offset)
        return np.frombuffer(file.read(dtype.itemsize), dtype).reshape(())
      row = math.prod(shape[1:]) * dtype.itemsize
      first, last = index[0].start, index[0].stop
      out = np.empty([part.stop - part.start for part in index], dtype)
      whole = out.shape[1:] == shape[1:]
      step = max(1, last - first if whole else READ_BLOCK // max(row, 1))
      for start in range(first, last, step):
        stop = min(start + step, last)
        block = out[start - first : stop - first] if whole else np.empty((stop - start, *shape[1:]), dtype)
        file.seek(offset + start * row)
        if file.readinto(block.reshape(-1).view(np.uint8).data) != block.nbytes:
          raise UserError(f"{path} is truncated: it ends inside an array of shape {shape} at byte {offset}")
        if not whole:
          out[start - first : stop - first] = block[(slice(None), *index[1:])]
      return out

  return Leaf(shape, dtype, read)


def read_weights(path: str | os.PathLike[str], *, dtype: Any = np.float32) -> dict[str, Any]:
  """The nested dictionary of numpy arrays in the file, floating ones as `dtype`.

  Raises:
    UserError: missing, truncated or foreign file; a value that is NaN or infinite, also as `dtype`.
  """
  found = {}
  for name, leaf in open_weights(path).items():
    array = np.asarray(leaf)
    if array.dtype.kind not in "iub" and array.dtype != dtype:
      with np.errstate(over="ignore"):
        array = array.astype(dtype)
      check_finite(array, f"{path}: parameter {name} as {np.dtype(dtype).name}")
    found[name] = array
  return traverse_util.unflatten_dict(found, sep="/")


def tree_hash(params: Any) -> str:
  """SHA-256 over names, types, shapes and values of a nested dictionary of arrays, in the order of their names."""
  digest = hashlib.sha256()
  for name, value in sorted(traverse_util.flatten_dict(params, sep="/").items()):
    array = np.ascontiguousarray(value)
    digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
    digest.update(array.view(np.uint8).data if array.ndim else array.tobytes())
  return digest.hexdigest()
