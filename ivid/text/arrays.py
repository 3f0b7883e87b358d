"""Reading arrays from .npy files, with checks."""

from __future__ import annotations

import pathlib

import numpy as np

from ivid.spec.errors import UserError, first_line


def load_array(path: pathlib.Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
  """The array in an .npy file, memory-mapped.

  Raises:
    UserError: it is missing or damaged, or of another shape (-1: any length) or type.
  """
  try:
    found = np.load(path, mmap_mode="r")
  except Exception as error:  # NumPy reads the header as Python, and raises whatever the tokenizer, the parser and mmap raise
    raise UserError(f"{path} is damaged: {first_line(error)}") from None
  if not isinstance(found, np.ndarray) or found.ndim != len(shape) or found.dtype != dtype:
    raise UserError(f"{path} is damaged: expected an array of {np.dtype(dtype).name} with {len(shape)} axes")
  if any(want not in (-1, have) for have, want in zip(found.shape, shape, strict=True)):
    raise UserError(f"{path} is damaged: {found.shape}, expected {shape}")
  return found
