"""Arrays inside a msgpack file of flax.serialization, found without reading them."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import flax.serialization
import msgpack
import numpy as np

from ivid.spec.errors import UserError
from ivid.spec.limits import DEEPEST_FILE
from ivid.weights.tensors import Leaf

MOST_ITEMS = 1 << 20  # items of a list or dictionary, which states the number for which memory is allocated
LARGEST = 2**31 - 1  # bytes of one object: flax splits arrays above 1 GiB
CHUNKED = "__msgpack_chunked_array__"
_MAPS = {*range(0x80, 0x90), 0xDE, 0xDF}  # first bytes of a map


def open_msgpack(source: str | os.PathLike[str] | bytes, *, name: str = "") -> dict[tuple[str, ...], Any]:
  """Values of the nested dictionary by their keys: arrays as Leaves, strings and numbers as they are, without empty dictionaries.

  Args:
    source: path of a file, or the bytes themselves.
    name: of the bytes, for messages.

  Raises:
    UserError: it is not msgpack, not a dictionary, or truncated.
  """
  shown = name or str(source)

  def open_file() -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")

  with open_file() as stream, open_file() as peek:
    first = peek.read(1)
    if not first or first[0] not in _MAPS:
      raise UserError(f"{shown} is no T5X checkpoint: expected a msgpack dictionary, as flax.serialization writes it")
    limits = dict(max_buffer_size=LARGEST, max_array_len=MOST_ITEMS, max_map_len=MOST_ITEMS)
    unpacker = msgpack.Unpacker(stream, raw=False, strict_map_key=False, **limits)
    try:
      return _joined(dict(_walk(unpacker, peek, open_file, ())))
    except UserError as error:
      raise UserError(f"{shown}: {error}") from None
    except msgpack.OutOfData:
      raise UserError(f"{shown} is truncated: it ends inside the dictionary") from None
    # The errors of msgpack for foreign bytes, and of numpy and flax for a wrongly described array.
    except (msgpack.UnpackException, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError) as error:
      reason = str(error).partition("\n")[0] or type(error).__name__
      raise UserError(f"{shown} is no readable msgpack file: {reason}") from None


def _first_byte(file: BinaryIO, offset: int) -> int:
  file.seek(offset)
  found = file.read(1)
  if not found:
    raise msgpack.OutOfData
  return found[0]


def _walk(unpacker: msgpack.Unpacker, peek: BinaryIO, open_file: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
  if len(path) >= DEEPEST_FILE:
    raise UserError(f"dictionaries more than {DEEPEST_FILE} deep: expected a checkpoint of flax.serialization")
  for _ in range(unpacker.read_map_header()):
    key = (*path, str(unpacker.unpack()))
    start = unpacker.tell()
    first = _first_byte(peek, start)
    if first in _MAPS:
      yield from _walk(unpacker, peek, open_file, key)
    elif 0xC7 <= first <= 0xC9 or 0xD4 <= first <= 0xD8:  # an extension type: flax's arrays and numpy scalars
      unpacker.skip()
      yield key, _leaf(open_file, peek, start, unpacker.tell())
    else:
      yield key, unpacker.unpack()


def _leaf(open_file: Any, peek: BinaryIO, start: int, stop: int) -> Any:
  """The array between two positions of the file; its shape and type precede its bytes. Small values are read at once."""
  peek.seek(start)
  head = {0xC7: 2, 0xC8: 3, 0xC9: 5}.get(peek.read(1)[0], 1)
  peek.seek(start)
  if stop - start < 1 << 12:
    return flax.serialization.msgpack_restore(peek.read(stop - start))
  # The extension's payload is itself msgpack: (shape, dtype name, bytes).
  peek.seek(start + head + 1)
  inner = msgpack.Unpacker(raw=False, max_buffer_size=LARGEST)
  inner.feed(peek.read(1 << 10))
  inner.read_array_header()
  shape, dtype = tuple(inner.unpack()), np.dtype(_dtype(inner.unpack()))
  place = start + head + 1 + inner.tell()  # of the bytes' own header
  held = stop - place - {0xC4: 2, 0xC5: 3, 0xC6: 5}.get(_first_byte(peek, place), 0)
  if min(shape, default=0) < 0 or held != math.prod(shape) * dtype.itemsize:
    raise ValueError(f"an array of shape {shape} and type {dtype.name} in {held} bytes")

  def read(index: tuple[slice, ...]) -> np.ndarray:
    with open_file() as file:
      file.seek(start)
      return flax.serialization.msgpack_restore(file.read(stop - start))[index]

  return Leaf(shape, dtype, read)


def _dtype(name: str) -> np.dtype:
  import ml_dtypes  # numpy does not know bfloat16 by its name alone

  return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _joined(values: dict[tuple[str, ...], Any]) -> dict[tuple[str, ...], Any]:
  """Joins the arrays that flax splits at 1 GiB: {CHUNKED: True, shape: {"0": n, ...}, chunks: {"0": flat part, ...}}."""
  found = {path: value for path, value in values.items() if not any(path[:n] + (CHUNKED,) in values for n in range(len(path)))}
  for path in [path[:-1] for path in values if path[-1] == CHUNKED]:
    shape = tuple(int(values[*path, "shape", str(n)]) for n in range(sum(key[: len(path) + 1] == (*path, "shape") for key in values)))
    parts = [values[*path, "chunks", str(n)] for n in range(sum(key[: len(path) + 1] == (*path, "chunks") for key in values))]

    def read(index: tuple[slice, ...], parts: list[Any] = parts, shape: tuple[int, ...] = shape) -> np.ndarray:
      return np.concatenate([np.asarray(part) for part in parts]).reshape(shape)[index]

    found[path] = Leaf(shape, np.dtype(parts[0].dtype), read)
  return found
