"""Whether two stages are the same function."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, cast

from ivid.spec import convert
from ivid.spec.retrieval import RetrievalSpec
from ivid.spec.stage import StageSpec

Spec = StageSpec | RetrievalSpec  # of what a checkpoint holds

# Defaults that sampling may change: no part of the function that the weights are trained for.
SAMPLING_DEFAULTS = ("sampling", "lowres.aug_snr")
# How a network is run, not what it computes: a run in bfloat16 goes on in float32 on a machine that is slow at bfloat16, and the other way.
EXECUTION = (".remat", ".saved", ".unroll", ".dtype")


def stage_difference(have: Spec, want: Spec, *, text_encoder: bool = True) -> str:
  """The first field in which two stages' functions differ, with both values; empty if they are the same function.

  Args:
    text_encoder: whether the hash of the encoder counts.
  """
  if not text_encoder:
    have, want = (dataclasses.replace(spec, text_encoder="") for spec in (have, want))
  left, right = _flat(convert.to_dict(have)), _flat(convert.to_dict(want))
  for field in {**left, **right}:
    run = any(f"{name}." in f"{field}." for name in EXECUTION)
    if run or field.startswith(SAMPLING_DEFAULTS) or left.get(field) == right.get(field):
      continue
    return f"{field}={left.get(field)!r}, expected {right.get(field)!r}"
  return ""


def first_difference(have: Any, want: Any) -> str:
  """The first field in which two contents of JSON files differ, with both values; empty if they are the same."""
  left, right = _flat(have), _flat(want)
  for field in {**left, **right}:
    if left.get(field) != right.get(field):
      return f"{field}={left.get(field)!r}, not {right.get(field)!r}"
  return ""


def changes(have: Any, want: Any) -> list[str]:
  """Every field in which two specs, or contents of JSON files, differ, as `field=new (was old)`."""
  left, right = _flat(convert.to_dict(have)), _flat(convert.to_dict(want))
  both = [field for field in {**left, **right} if left.get(field) != right.get(field)]
  return [f"{field}={right.get(field)!r} (was {left.get(field)!r})" for field in both]


def _flat(value: Any, path: str = "") -> dict[str, Any]:
  """Leaves of nested dictionaries and lists by their path; lists give their length too."""
  pairs: Iterable[tuple[Any, Any]]
  if isinstance(value, dict):
    pairs = cast("dict[Any, Any]", value).items()
  elif isinstance(value, list):
    items = cast("list[Any]", value)
    pairs = [("length", len(items)), *enumerate(items)]
  else:
    return {path: value}
  return {p: leaf for key, item in pairs for p, leaf in _flat(item, f"{path}.{key}" if path else str(key)).items()}
