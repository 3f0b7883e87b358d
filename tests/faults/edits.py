"""A seeded editor of valid files: each edit is something that a careless program, a bad disk or an unkind person does to a file.

Every edit follows from its generator alone, so that `random.Random(n)` makes the n-th edit again.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

RAW = "\0raw:"  # begins a string that stands for JSON text which json.dumps does not write
DEEP = 100_000
LONG = 1_000_000

# What is put in the place of a value, by kind.
VALUES: dict[str, Any] = {
  "null": [None],
  "number": [0, 1, -1, 2, 7, 0.5, -0.5, 1e-30],
  "not finite": [float("nan"), float("inf"), -float("inf"), RAW + "1e400", RAW + "-1e400"],
  "huge": [2**31, 2**32, 2**63, -(2**63), 2**64, 10**9, 10**400, 1e38, 1e308, RAW + "9" * 5000],
  "wrong type": [True, False, "", "a", "3", [], {}, [[]], [None], {"a": 1}, [1, "b"], [1, 2, 3, 4, 5]],
  "deep": [RAW + "[" * DEEP + "]" * DEEP, RAW + '{"a":' * DEEP + "1" + "}" * DEEP, RAW + "[" * 70 + "]" * 70],
  "long": ["a" * LONG, ["a"] * 10_000, list(range(10_000))],
  "path": ["../../a", "/etc/passwd", ".", "..", "a/../../b", "a\\b", "\0", ".hidden", "a" * 300, "file:///etc/passwd"],
  "text": ["\ud800", "\u2028", "é" * 100, " ", "\n", "NaN", "None"],
}
FOREIGN = [b"PK\x03\x04", b"\x80\x04\x95", b"\xff" * 100, b"{}", b"\xdf\xff\xff\xff\xff", b"\x93NUMPY\x01\x00"]  # beginnings
KINDS = ("drop", "unknown key", "twice", "swap", *VALUES)


def edit_json(value: Any, rng: random.Random) -> tuple[str, str]:
  """The JSON text of `value` with one edit, and what it was."""
  value = copy.deepcopy(value)
  kind = rng.choice(KINDS)
  parent, key = rng.choice(list(_places(value)))
  said = f"{kind} at {key!r}"
  if kind == "drop":
    del parent[key]
  elif kind == "unknown key":
    (parent if isinstance(parent, dict) else value)["unknown"] = 1
  elif kind == "twice" and isinstance(parent, list):
    parent.insert(key, copy.deepcopy(parent[key]))
  elif kind in ("twice", "swap"):
    other, place = rng.choice(list(_places(value)))
    one, two = copy.deepcopy(parent[key]), copy.deepcopy(other[place])
    other[place] = one
    if kind == "swap" and key in (parent if isinstance(parent, dict) else range(len(parent))):
      parent[key] = two
    said += f" and {place!r}"
  else:
    parent[key] = rng.choice(VALUES[kind])
    said += f": {str(parent[key])[:40]!r}"
  return json_text(value), said


def json_text(value: Any) -> str:
  """JSON of a value in which strings that begin with RAW stand for text."""
  text = json.dumps(value)
  for raw in {found for found in _strings(value) if found.startswith(RAW)}:
    text = text.replace(json.dumps(raw), raw.removeprefix(RAW))
  return text


def edit_bytes(data: bytes, rng: random.Random) -> tuple[bytes, str]:
  """The bytes of a file with one edit, and what it was."""
  kind = rng.choice(["flip", "flip near the start", "cut", "empty", "insert", "zero", "ones", "repeat", "header length", "foreign"])
  place = rng.randrange(max(1, min(len(data), 512) if kind == "flip near the start" else len(data)))
  edited = bytearray(data)
  if kind.startswith("flip") and data:
    edited[place] ^= 1 << rng.randrange(8)
  elif kind == "cut":
    del edited[place:]
  elif kind == "empty":
    edited.clear()
  elif kind == "insert":
    edited[place:place] = rng.randbytes(rng.choice([1, 3, 64, 5000]))
  elif kind in ("zero", "ones"):
    length = min(rng.choice([1, 8, 64, 4096]), len(data) - place)
    edited[place : place + length] = (b"\0" if kind == "zero" else b"\xff") * length
  elif kind == "repeat":
    edited[place:place] = data[place : place + 100]
  elif kind == "header length":  # of safetensors; of other files their first bytes
    edited[:8] = rng.choice([0, 1, 7, len(data), max(0, len(data) - 8), 2**31, 2**63, 2**64 - 1, rng.randrange(1000)]).to_bytes(8, "little")
  else:
    edited[:] = rng.choice(FOREIGN) + data[20:]
  return bytes(edited), f"{kind} at byte {place}"


def edit_header(data: bytes, rng: random.Random) -> tuple[bytes, str]:
  """A safetensors file whose header has one edit, its length right."""
  length = int.from_bytes(data[:8], "little")
  text, said = edit_json(json.loads(data[8 : 8 + length]), rng)
  header = text.encode("utf-8", "surrogatepass")
  return len(header).to_bytes(8, "little") + header + data[8 + length :], f"header: {said}"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
  """Every (dictionary, key) and (list, place) in it."""
  pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
  for key, item in list(pairs):
    yield value, key
    yield from _places(item)


def _strings(value: Any) -> Iterator[str]:
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict | list):
    for item in value.values() if isinstance(value, dict) else value:
      yield from _strings(item)
