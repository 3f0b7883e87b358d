"""What the numbers of a spec may be, said at the field: `steps: Annotated[int, Range(1, MOST_UPDATES)] = 500`.

Every number of every spec has a Range (tests/spec/test_ranges.py); `check_ranges` in its class's __post_init__ holds it.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Annotated, Any, cast

from ivid.spec.errors import UserError, shown


@dataclasses.dataclass(frozen=True)
class Range:
  """Numbers from `low` to `high`; NaN is in none.

  Attributes:
    above, below: whether `low` and `high` themselves are outside.
    words: what is expected, in an error; empty: the end that the value is beyond.
  """

  low: float
  high: float
  above: bool = False
  below: bool = False
  words: str = ""

  def __contains__(self, value: float) -> bool:
    return (self.low < value if self.above else self.low <= value) and (value < self.high if self.below else value <= self.high)

  def check(self, value: float, said: str) -> None:
    """UserError for a value outside; `said`: its name."""
    if value not in self:
      text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else shown(value)
      raise UserError(f"{said}={text}: expected {self.expected(value)}")

  def expected(self, value: float) -> str:
    """What to give instead of a value outside."""
    if self.words:
      return self.words
    if value > self.high:
      return f"at most {self.high}"
    if self.above:
      return "a positive number" if not self.low else f"above {self.low}"
    return f"{self.low} or more"


Share = Annotated[float, Range(0, 1, words="0 to 1")]


def check_ranges(spec: Any, prefix: str) -> None:
  """UserError for the first number of a dataclass that is out of the Range of its field; `prefix`: what stands before the field's name."""
  for name, allowed in _ranges(cast("type[Any]", type(spec))).items():
    value = getattr(spec, name)
    items = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)
    for item in items:
      if item is not None:
        allowed.check(item, f"{prefix}{name}")


@functools.cache
def _ranges(cls: type) -> dict[str, Range]:
  found = {name: _range(hint) for name, hint in typing.get_type_hints(cls, include_extras=True).items()}
  return {name: allowed for name, allowed in found.items() if allowed is not None}


def _range(hint: Any) -> Range | None:
  """The Range in a hint, which may be of a tuple's items or beside None."""
  if typing.get_origin(hint) is Annotated:
    return next((extra for extra in hint.__metadata__ if isinstance(extra, Range)), None)
  return next((found for arg in typing.get_args(hint) if (found := _range(arg))), None)
