"""Parameter trees as safetensors files: flat names joined by '/', written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy
from flax import traverse_util


def write_weights(path: str | os.PathLike, params: Any, *, dtype: Any = None, metadata: dict[str, str] | None = None) -> None:
  """Writes a nested dictionary of arrays, floating ones cast to `dtype` if given; temporary name first, then rename."""
  flat = {}
  for name, value in traverse_util.flatten_dict(params, sep="/").items():
    array = np.asarray(value)
    cast = dtype is not None and np.issubdtype(np.asarray(array, np.float32).dtype, np.floating) and array.dtype.kind != "i"
    flat[name] = np.ascontiguousarray(array.astype(dtype) if cast else array)
  target = pathlib.Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  temporary = target.with_name(f".{target.name}.{os.getpid()}")
  safetensors.numpy.save_file(flat, temporary, metadata=metadata)
  temporary.chmod(0o666 & ~_umask())  # the library makes files that only their owner may read
  os.replace(temporary, target)


def read_weights(path: str | os.PathLike, *, dtype: Any = np.float32) -> dict[str, Any]:
  """The nested dictionary of numpy arrays in the file, floating ones as `dtype`.

  Raises:
    ValueError: missing, truncated or foreign file.
  """
  target = pathlib.Path(path)
  if not target.is_file():
    raise ValueError(f"no weights at {target}: expected a .safetensors file")
  try:
    flat = safetensors.numpy.load_file(target)
  except Exception as error:  # the library raises its own class, ValueError or KeyError by the kind of damage
    raise ValueError(f"{target} is no readable safetensors file ({target.stat().st_size} bytes): {error}") from None
  cast = {name: a if a.dtype.kind in "iub" else a.astype(dtype) for name, a in flat.items()}
  return traverse_util.unflatten_dict(cast, sep="/")


def tree_hash(params: Any) -> str:
  """SHA-256 over names, types, shapes and values of a nested dictionary of arrays, in the order of their names."""
  digest = hashlib.sha256()
  for name, value in sorted(traverse_util.flatten_dict(params, sep="/").items()):
    array = np.ascontiguousarray(value)
    digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
    digest.update(array.view(np.uint8).data if array.ndim else array.tobytes())
  return digest.hexdigest()


def _umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask
