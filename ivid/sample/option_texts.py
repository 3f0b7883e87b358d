"""Reads options about sampling from text: `16` for all stages, or `base=64,ssr1=16`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ivid.sample.plan import OTHERS, WHOLE
from ivid.spec.errors import UserError


def left_of(text: str, stages: list[str]) -> str:
  """The part of `16` or `base=64,ssr1=16` that concerns these stages."""
  parts = [part.strip() for part in text.split(",")]
  return ",".join(part for part in parts if "=" not in part or part.partition("=")[0] in stages)


def read_option(option: str, text: str) -> Any:
  """A value, or for `STAGE=VALUE,...` a mapping, in which a bare value is for all stages not named; None if the text is empty.

  Args:
    option: a field of ivid.sample.plan.Overrides.

  Raises:
    UserError: a value that cannot be read.
  """
  found: dict[str, Any] = {}
  for part in filter(None, (p.strip() for p in text.split(","))):
    name, equals, value = part.partition("=")
    if not equals and OTHERS in found:
      raise UserError(f"{option}={text}: two values for all stages, the second is {part}; expected STAGE=VALUE,...")
    found[name if equals else OTHERS] = READERS[option](option, value if equals else part)
  return (found[OTHERS] if set(found) == {OTHERS} else found) if found else None


def _whole_number(option: str, text: str) -> int:
  try:
    return int(text)
  except ValueError:
    raise UserError(f"{option}={text}: expected a whole number") from None


def _number(option: str, text: str, expected: str = "a number") -> float:
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise UserError(f"{option}={text}: expected {expected}")
  return value


def _guidance(option: str, text: str) -> Any:
  """Reads `6`, or `15:1`, which means 15 at first and then 1 and 15 in turn."""
  high, colon, low = text.partition(":")
  weights = [_number(option, part, "a number or HIGH:LOW such as 15:1") for part in ((high, low) if colon else (high,))]
  return tuple(weights) if colon else weights[0]


def _tile(option: str, text: str) -> tuple[int, ...]:
  if text == "whole":
    return WHOLE
  parts = text.lower().split("x")
  if len(parts) != 3 or not all(part.isdecimal() for part in parts):
    raise UserError(f"{option}={text}: expected FRAMESxHEIGHTxWIDTH such as 32x768x1280 (0: the whole axis), or whole")
  return tuple(map(int, parts))


def _word(option: str, text: str) -> str:
  del option
  return text


READERS: dict[str, Callable[[str, str], Any]] = dict(
  steps=_whole_number, sampler=_word, guidance=_guidance, threshold=_word, aug_snr=_number, tile=_tile
)
