"""Reads arrays from a pickle without running anything in it: the reader only knows dictionaries and numpy arrays of numbers."""

from __future__ import annotations

import io
import math
import os
import pickle
from typing import Any

import numpy as np

from ivid.spec.errors import UserError, first_line, shown
from ivid.spec.paths import check_file

LARGEST = 1 << 28  # bytes of a file; the memory that it can claim is of the same order
DEEPEST = 16  # nested dictionaries
DTYPES = ("f2", "f4", "f8", "i4", "i8")
# The module that pickles of arrays name: before and since numpy 2.0.
PLACES = ("numpy.core.multiarray", "numpy._core.multiarray")


def read_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The pickled nested dictionary of arrays, whose keys are strings.

  Raises:
    UserError: there is no such file, it is damaged or too large, or it asks for anything else, which is named and not run.
  """
  file = check_file(path, "pickle")
  size = file.stat().st_size
  if size > LARGEST:
    raise UserError(f"{path} has {size} bytes: expected at most {LARGEST} of pickled arrays")
  try:
    found = _Unpickler(io.BytesIO(file.read_bytes())).load()
    return _plain(found, path, DEEPEST)
  except UserError as error:
    raise UserError(f"{path}: {error}") from None
  # The errors that, as documented, a damaged pickle may raise.
  except (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
  ) as error:
    raise UserError(f"{path} is no pickle of arrays: {first_line(error)}") from None


class _Unpickler(pickle.Unpickler):
  """Replaces numpy's classes by ones that only record their arguments, and refuses all others."""

  def find_class(self, module: str, name: str) -> Any:
    if name == "_reconstruct" and module in PLACES:
      return _empty
    if (module, name) == ("numpy", "ndarray"):
      return _Array
    if (module, name) == ("numpy", "dtype"):
      return _Dtype
    raise UserError(f"it wants to run {shown(f'{module}.{name}')[1:-1]}: expected dictionaries and numpy arrays alone, so it was not read")

  def persistent_load(self, pid: Any) -> Any:
    raise UserError(f"it wants to open {shown(pid)}: expected dictionaries and numpy arrays alone, so it was not read")


class _Dtype:
  """The arguments of an array's dtype: its code, such as f4, then a state whose second item is the byte order."""

  def __init__(self, code: Any, *_: Any):
    if code not in DTYPES:
      raise UserError(f"an array of type {shown(code)}: expected one of {', '.join(DTYPES)}")
    self.code, self.order = code, "<"

  def __setstate__(self, state: Any) -> None:
    if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">"):
      raise UserError(f"an array's type is told {shown(state)}: expected the order of its bytes")
    self.order = state[1]


class _Array:
  """The arguments of an array: version, shape, dtype, whether the first axis changes fastest, and its bytes."""

  def __init__(self, *_: Any):
    self.array: np.ndarray | None = None

  def __setstate__(self, state: Any) -> None:
    if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _Dtype) and isinstance(state[4], bytes)):
      raise UserError("an array is told something else than its shape, type and bytes")
    _, shape, dtype, fortran, data = state
    kind = np.dtype(dtype.order + dtype.code)
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not whole or math.prod(shape) * kind.itemsize != len(data):
      raise UserError(f"an array of shape {shown(shape)} has {len(data)} bytes of {kind.name}")
    self.array = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


def _empty(kind: Any, *_: Any) -> _Array:
  if kind is not _Array:
    raise UserError(f"it wants to make a {shown(kind)}: expected a numpy array")
  return _Array()


def _plain(value: Any, path: Any, levels: int) -> Any:
  """The same dictionaries, with arrays in place of their recorded arguments."""
  if isinstance(value, _Array) and value.array is not None:
    return value.array
  if not isinstance(value, dict) or not levels:
    raise UserError(f"it holds {shown(type(value).__name__)} where dictionaries, at most {DEEPEST} deep, and arrays are expected")
  if not all(isinstance(key, str) for key in value):
    raise UserError(f"it has a dictionary with the key {shown(next(key for key in value if not isinstance(key, str)))}: expected texts")
  return {key: _plain(item, path, levels - 1) for key, item in value.items()}
