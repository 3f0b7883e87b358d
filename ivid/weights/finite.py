"""Finds weights that are NaN or infinite. They are refused by the name of the parameter when files are read and before they are written."""

from __future__ import annotations

import numpy as np

from ivid.spec.errors import UserError

BLOCK = 1 << 18  # number of values checked together, so that they and the intermediate results stay in a processor's cache
_EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF << 52}  # all ones: infinite or NaN


def count_nonfinite(array: np.ndarray) -> int:
  """How many values of an array are NaN or infinite; always 0 for integers and bools."""
  exponent = _EXPONENTS.get(array.dtype.name)
  if exponent is None:
    return 0
  bits = array.ravel(order="K").view(f"u{array.dtype.itemsize}")  # "K": in the order of memory, even if it is transposed
  exponent = bits.dtype.type(exponent)
  blocks = (bits[start : start + BLOCK] for start in range(0, bits.size, BLOCK))
  return sum(int(np.count_nonzero((block & exponent) == exponent)) for block in blocks)


def check_finite(array: np.ndarray, said: str) -> np.ndarray:
  """The array. Raises UserError, which begins with `said`, if any value is NaN or infinite."""
  if count := count_nonfinite(array):
    raise UserError(said_nonfinite(said, count, array.size))
  return array


def said_nonfinite(said: str, count: int, size: int) -> str:
  """The message of `check_finite`."""
  return f"{said}: {count} of {size} values are NaN or infinite, expected numbers"
