"""The header of a safetensors file, which describes its arrays; it is checked before any array is read."""

from __future__ import annotations

import math
import os
from typing import Any

import ml_dtypes
import numpy as np

from ivid.spec.errors import UserError, shown
from ivid.spec.files import parse_json
from ivid.spec.paths import check_file

# The types that a parameter may have; others (such as F8_E4M3 for quantised weights) are refused by name.
DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "U8": np.dtype(np.uint8),
  "I8": np.dtype(np.int8),
  "BOOL": np.dtype(bool),
}
METADATA, HASH = "__metadata__", "hash"
HEADER_LIMIT = 100_000_000  # bytes, as the format defines
MOST_AXES = 16  # of a parameter; ours have up to 6, and NumPy allows up to 64


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, str], int]:
  """Entries of a safetensors file by name, its metadata, and where its data start.

  Raises:
    UserError: the file is missing, truncated or not of this format, or its arrays overlap, leave gaps or do not have the stated sizes.
  """
  target = check_file(path, "weights", "a .safetensors file")
  size = target.stat().st_size
  unreadable = f"{target} is no readable safetensors file ({size} bytes)"
  with open(target, "rb") as file:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(HEADER_LIMIT, size - 8):
      raise UserError(unreadable)
    header = parse_json(file.read(length), source=f"the header of {target}")
  metadata = header.pop(METADATA, {}) if isinstance(header, dict) else None
  if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
    raise UserError(f"{unreadable}: expected a dictionary of arrays, with texts as metadata")
  for name, entry in header.items():
    if wrong := _wrong(entry):
      raise UserError(f"{unreadable}: parameter {shown(name)} {wrong}")
  end = 0
  for start, stop, name in sorted((*entry["data_offsets"], name) for name, entry in header.items()):
    if start != end:
      raise UserError(f"{unreadable}: parameter {shown(name)} begins at byte {start} of the data, expected {end}")
    end = stop
  if size != 8 + length + end:
    wrong = "truncated" if size < 8 + length + end else "too long"
    raise UserError(f"{target} is {wrong}: {size} bytes, expected {8 + length + end}")
  if inner := next((name for name in header for n, c in enumerate(name) if c == "/" and name[:n] in header), None):
    raise UserError(f"{unreadable}: parameter {shown(inner)} lies within another one")
  return header, metadata, 8 + length


def _wrong(entry: Any) -> str:
  """What is wrong with a parameter's entry; empty if nothing is."""
  if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"} or not isinstance(entry["dtype"], str):
    return f"is described by {shown(entry)}: expected dtype, shape and data_offsets"
  shape, offsets = entry["shape"], entry["data_offsets"]
  if not _counts(shape) or len(shape) > MOST_AXES:
    return f"has shape {shown(shape)}: expected at most {MOST_AXES} whole numbers"
  if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
    return f"has data_offsets {shown(offsets)}: expected its first byte and the one after its last"
  want = math.prod(shape) * DTYPES[entry["dtype"]].itemsize if entry["dtype"] in DTYPES else offsets[1] - offsets[0]
  return "" if offsets[1] - offsets[0] == want else f"has {offsets[1] - offsets[0]} bytes, expected the {want} of its shape {shape}"


def _counts(values: Any) -> bool:
  return isinstance(values, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in values)
