"""T5X checkpoints: a folder with a msgpack file `checkpoint` and zarr arrays, zarr arrays alone, or one msgpack file. Read and written.

T5X itself is not needed: tensorstore reads the arrays, and the msgpack of flax.serialization the rest.
"""

from __future__ import annotations

import functools
import math
import os
import pathlib
import posixpath
import re
import warnings
from collections.abc import Mapping
from typing import Any

import flax.serialization
import numpy as np
import tensorstore as ts
from flax import traverse_util

from ivid.media.files import whole_folder, write_whole
from ivid.spec.errors import UserError, first_line, shown
from ivid.spec.files import parse_json
from ivid.spec.names import check_path
from ivid.text.checkpoints.msgpack_leaves import open_msgpack
from ivid.weights.tensors import Leaf, finite_leaf

FILE = "checkpoint"
PLACEHOLDER = "PLACEHOLDER"  # newer files hold PLACEHOLDER://NAME where an array of that name lies beside them
ROOTS = (("optimizer", "target"), ("target",), ("params",), ())  # where parameters stand in the dictionary, newest T5X first
VERSION = 3
ZARRAY = ".zarray"  # the file that describes a zarr array
LARGEST_CHUNK = 1 << 33  # bytes: T5X's own have at most 2^31
CHUNK_ELEMENTS = 1 << 24  # values per zarr chunk that we write: 64 MB in float32
SECONDS = 1800.0  # the longest wait for one answer of a bucket or server
_SPEC_KEYS = ("driver", "dtype", "kvstore", "metadata", "path", "transform")


def is_url(path: str | os.PathLike[str]) -> bool:
  """Whether it is on cloud storage, such as gs://bucket/folder."""
  return "://" in str(path)


def is_t5x_folder(folder: pathlib.Path) -> bool:
  return (folder / FILE).is_file() or any(folder.glob("target.*/.zarray"))


def open_t5x(path: str | os.PathLike[str]) -> dict[str, Leaf]:
  """Leaves by T5X's names below the target, such as encoder/layers_0/attention/query/kernel, each a finite_leaf; decoders included.

  Args:
    path: a folder, local or on cloud storage (gs://, s3://, http://), or a local msgpack file.

  Raises:
    UserError: there is no checkpoint, it is truncated, or an array, which is named, is not where the checkpoint says.
  """
  return {name: finite_leaf(leaf, f"{path}: parameter {name}") for name, leaf in _open(path).items()}


def _open(path: str | os.PathLike[str]) -> dict[str, Leaf]:
  if not is_url(path) and pathlib.Path(path).is_file():
    return _arrays(_parameters(open_msgpack(path), str(path)), str(path))
  url = f"{path}/".replace("//", "/").replace(":/", "://") if is_url(path) else f"file://{pathlib.Path(path).resolve()}/"
  store = _result(ts.KvStore.open(url), f"{path} cannot be read", url)
  content = _result(store.read(FILE), f"{path} cannot be read", url)
  if content.state == "missing":
    names = _zarr_names(store, str(path), url)
    return _arrays({name.split(".", 1)[1].replace(".", "/"): name for name in names}, str(path), url)
  return _arrays(_parameters(open_msgpack(bytes(content.value), name=posixpath.join(str(path), FILE)), str(path)), str(path), url)


def _result(future: Any, what: str, url: str) -> Any:
  """The result. Raises UserError, which begins with `what`, for tensorstore's errors, or if a remote place does not answer in SECONDS."""
  try:
    return future.result(timeout=None if url.startswith("file://") else SECONDS)
  except TimeoutError:
    raise UserError(f"{what}: it did not arrive in {SECONDS:g} s") from None
  except (ValueError, OSError, NotImplementedError) as error:  # the classes of tensorstore's errors, by status
    raise UserError(f"{what}: {first_line(error)}") from None


def _zarr_names(store: ts.KvStore, path: str, url: str) -> list[str]:
  keys = {key.decode() for key in _result(store.list(), f"{path} cannot be read", url)}
  names = sorted(key.removesuffix("/.zarray") for key in keys if key.startswith("target.") and key.endswith("/.zarray"))
  if not names:
    raise UserError(f"{path} is no T5X checkpoint: expected a file {FILE!r} or zarr arrays such as target.encoder.encoder_norm.scale")
  return names


def _parameters(values: Mapping[tuple[str, ...], Any], path: str) -> dict[str, Any]:
  """Values below the first of ROOTS that is there; a dictionary that describes a zarr array becomes that array's folder name."""
  specs: dict[tuple[str, ...], dict[str, Any]] = {}
  plain = {}
  for keys, value in values.items():
    place = next((n for n in range(1, len(keys)) if (*keys[:n], "driver") in values and keys[n] in _SPEC_KEYS), None)
    if place is None:
      plain[keys] = value
    else:
      specs.setdefault(keys[:place], {})["/".join(keys[place:])] = value
  for keys, spec in specs.items():
    plain[keys] = _folder_name(keys, spec, path)
  for root in ROOTS:
    below = {"/".join(keys[len(root) :]): value for keys, value in plain.items() if keys[: len(root)] == root}
    if any(name.startswith(("encoder/", "decoder/", "token_embedder/")) for name in below):
      return below
  keys = ", ".join(sorted({keys[0] for keys in values})[:8])
  raise UserError(f"{path} holds no T5 parameters: its keys are {keys or 'none'}; expected optimizer/target/encoder/...")


def _folder_name(keys: tuple[str, ...], spec: Mapping[str, Any], path: str) -> str:
  """Folder of the array, relative to the checkpoint; absolute paths and buckets of the machine that wrote it do not count."""
  where = spec.get("kvstore/path", spec.get("path"))
  if spec["driver"] != "zarr" or not isinstance(where, str):
    raise UserError(f"{path}: {'/'.join(keys)} is stored by {spec['driver']!r} at {where!r}: expected driver 'zarr' and a path")
  return posixpath.basename(where.rstrip("/")) if where.startswith("/") else where.rstrip("/")


def _arrays(values: Mapping[str, Any], path: str, url: str = "") -> dict[str, Leaf]:
  """Leaves of parameters: arrays as they are, strings as names of zarr arrays, all opened at once."""
  leaves, waiting = {}, {}
  stores = _result(ts.KvStore.open(url), path, url) if url else None
  for name, value in values.items():
    if isinstance(value, str):
      if not url:
        raise UserError(f"{path}: parameter {name} is in an array beside the file: expected the folder of the checkpoint")
      folder = value.partition("://")[2] if value.startswith(PLACEHOLDER) else value
      folder = check_path(folder or "target." + name.replace("/", "."), f"{path}: array of parameter {name}")
      waiting[name] = folder, stores.read(f"{folder}/{ZARRAY}")
    elif isinstance(value, Leaf):
      leaves[name] = value
    elif isinstance(value, np.ndarray):
      leaves[name] = Leaf(value.shape, value.dtype, lambda index, array=value: array[index])
  for name, (folder, content) in waiting.items():
    said = f"{path}: parameter {name} cannot be read from {folder}"
    fill = _read_zarray(bytes(_result(content, said, url).value), said).get("fill_value")
    counted = fill is not None and not url.startswith("http")  # where nothing can be listed, no chunk may be missing
    spec = {"driver": "zarr", "kvstore": f"{url}{folder}/", "fill_missing_data_reads": counted}
    waiting[name] = folder, fill, ts.open(spec, open=True, read=True)
  for name, (folder, fill, future) in waiting.items():
    array = _result(future, f"{path}: parameter {name} cannot be read from {folder}", url)
    leaves[name] = _zarr_leaf(array, fill, f"{path}: parameter {name}", url)
  return leaves


def _read_zarray(text: bytes, said: str) -> dict[str, Any]:
  """The description of an array. Raises UserError if it is none, or for chunks above LARGEST_CHUNK, which end TensorStore's process."""
  found = parse_json(text, source=said) if text else None
  shape, chunks, kind = (found.get(key) for key in ("shape", "chunks", "dtype")) if isinstance(found, dict) else (None, None, None)
  lists = [values for values in (shape, chunks) if isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in values)]
  if len(lists) < 2 or len(shape) != len(chunks) or not isinstance(kind, str):  # pyright: ignore[reportArgumentType]  both are lists here
    raise UserError(f"{said}: {ZARRAY} describes no array: expected shape, chunks and dtype")
  if 8 * math.prod(chunks) > LARGEST_CHUNK:  # pyright: ignore[reportArgumentType, reportCallIssue]  both are lists here
    raise UserError(f"{said}: chunks of {shown(chunks)} values: expected at most {LARGEST_CHUNK // 8}")
  return found  # pyright: ignore[reportReturnType]  a mapping here


def _zarr_leaf(array: ts.TensorStore, fill: Any, said: str, url: str) -> Leaf:
  shape, dtype = tuple(array.shape), np.dtype(array.dtype.numpy_dtype)
  check = functools.cache(lambda: _check_chunks(array, fill, said, url))

  def read(index: tuple[slice, ...]) -> np.ndarray:
    check()
    return np.asarray(_result(array[tuple(index)].read(), f"{said} cannot be read", url))

  return Leaf(shape, dtype, read)


def _check_chunks(array: ts.TensorStore, fill: Any, said: str, url: str) -> None:
  """Raises UserError if all chunks are missing, or any of an array without a fill value, as T5X's are; warns of others.

  Zarr leaves out chunks that only hold the fill value, so missing chunks may be intended.
  """
  if url.startswith("http"):  # which cannot be listed: reading refuses what is missing
    return
  grid = [-(-size // chunk) for size, chunk in zip(array.shape, array.chunk_layout.read_chunk.shape or (), strict=True)]  # pyright: ignore[reportOperatorIssue]  a stored array has chunks of known sizes
  keys = (re.split(r"[./]", key.decode()) for key in _result(array.kvstore.list(), f"{said} cannot be read", url))
  places = {tuple(map(int, key)) for key in keys if all(part.isdecimal() for part in key)}
  # The one chunk of an array without axes is named 0.
  there = sum(len(place) == len(grid) and all(map(int.__lt__, place, grid)) for place in places) if grid else len(places & {(0,)})
  total = math.prod(grid)
  if there == total:
    return
  missing = f"{said}: {total - there} of {total} chunks are missing"
  if fill is None or not there:
    raise UserError(f"{missing}: expected all of them; copy the checkpoint again")
  warnings.warn(f"{missing}: they are read as {shown(fill)}, the array's fill value", stacklevel=2)


def write_t5x(out: str | os.PathLike[str], params: Any, *, dtype: Any = np.float32) -> None:
  """Writes a folder as T5X does, one parameter in memory at a time: matrices as zarr arrays, vectors inside `checkpoint`.

  Args:
    out: the folder, new or empty; T5X looks for names such as checkpoint_0.
    params: nested dictionary of arrays or Leaves below the target.
    dtype: that all are written in; T5X's own is float32.

  Raises:
    UserError: the folder has something in it.
  """
  target = pathlib.Path(out)
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise UserError(f"{target} is not empty: expected a new folder, such as {target / 'checkpoint_0'}")
  with whole_folder(target) as temporary:
    tree: dict[tuple[str, ...], Any] = {}
    for keys, leaf in traverse_util.flatten_dict(params).items():
      array = np.asarray(leaf).astype(dtype, copy=False)
      tree[keys] = array if array.ndim < 2 else _write_zarr(temporary, ".".join(("target", *keys)), array)
    state = {"step": np.zeros((), np.int32), "param_states": {}}
    content = {"version": VERSION, "optimizer": {"target": traverse_util.unflatten_dict(tree), "state": state}}
    write_whole(temporary / FILE, flax.serialization.msgpack_serialize(content))


def _write_zarr(folder: pathlib.Path, name: str, array: np.ndarray) -> dict[str, Any]:
  """Writes the array and returns its tensorstore spec, with a relative path, by which T5X finds it."""
  rows = max(1, min(array.shape[0], CHUNK_ELEMENTS // max(1, array[0].size)))
  metadata = {"shape": list(array.shape), "chunks": [rows, *array.shape[1:]], "compressor": {"id": "gzip", "level": 1}}
  spec = {"driver": "zarr", "dtype": array.dtype.name, "metadata": metadata}
  try:
    store = ts.open({**spec, "kvstore": {"driver": "file", "path": f"{folder / name}/"}}, create=True).result()
    store.write(array).result()
  except (ValueError, OSError) as error:  # tensorstore's words for a full disk
    raise OSError(first_line(error)) from None
  return {**spec, "kvstore": {"driver": "file", "path": name}}
