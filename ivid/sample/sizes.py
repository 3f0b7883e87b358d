"""Other sizes than a cascade's own: which heights and widths a chain of stages can make."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from fractions import Fraction

from ivid.spec.cascade import CascadeSpec
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError, shown
from ivid.spec.limits import MOST_SIDE
from ivid.spec.ranges import Range
from ivid.spec.stage import StageSpec

SIDES = ("height", "width")
SIDE = Range(1, MOST_SIDE)
WHY = "its network attends over space or normalises whole frames"


def read_size(text: str) -> tuple[int, int] | None:
  """Height and width of `768x1280`; None for empty text. Raises UserError for anything else."""
  if not text:
    return None
  match = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text)
  if not match:
    raise UserError(f"size={text}: expected HEIGHTxWIDTH such as 768x1280")
  return int(match[1]), int(match[2])


def resized(stages: Sequence[StageSpec], size: Sequence[int] | None) -> tuple[StageSpec, ...]:
  """The stages for a last output of `size`, (height, width); all other sizes follow by their ratios. None: the stages as they are.

  If a side differs from that of the stage, it must be a multiple of the network's stride, and the network must treat a part of the picture
  as it treats the whole (UNetSpec.pixel_local).

  Raises:
    UserError: a stage cannot make the size. Names the stage, the reason, and the nearest size that all stages can make.
  """
  if size is None:
    return tuple(stages)
  if isinstance(size, str) or len(size) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in size):
    raise UserError(f"size={shown(size)}: expected (height, width) as whole numbers")
  said = f"size={size[0]}x{size[1]}"
  for side, value in zip(SIDES, size, strict=True):
    SIDE.check(value, f"{said}: {side}")
  own = [getattr(stages[-1].output, side) for side in SIDES]
  if list(size) == own:
    return tuple(stages)
  _check_networks(stages, own, said)
  _check_grid(stages, size, said)
  factors: dict[str, Fraction] = dict(zip(SIDES, map(Fraction, size, own), strict=True))
  return tuple(_scaled_stage(spec, factors) for spec in stages)


def shown_aspect(cascade: CascadeSpec, stages: Sequence[StageSpec]) -> float:
  """Width over height of what clips of these stages show, for sizes that may differ from the cascade's."""
  own, last = cascade.stage(stages[-1].name).output, stages[-1].output
  return cascade.aspect * (last.width / own.width) / (last.height / own.height)


def _check_networks(stages: Sequence[StageSpec], own: Sequence[int], said: str) -> None:
  fixed = [n for n, spec in enumerate(stages) if not spec.unet.pixel_local]
  if not fixed:
    return
  spec, last = stages[fixed[0]], stages[-1]
  makes = f"stage {spec.name} makes {spec.output.height}x{spec.output.width} alone, as {WHY}"
  follows = "" if spec is last else f", and stage {last.name} {own[0]}x{own[1]} of that"
  later = stages[fixed[-1] + 1 :]
  other = f", or to start from a clip with start_stage={later[0].name} and input" if later else ""
  raise UserError(f"{said}: {makes}{follows}: expected size={own[0]}x{own[1]}{other}")


def _check_grid(stages: Sequence[StageSpec], size: Sequence[int], said: str) -> None:
  near = []
  for side, value in zip(SIDES, size, strict=True):
    last = getattr(stages[-1].output, side)
    step = math.lcm(*(multiple for spec in stages for multiple, _ in _needs(spec, side, last)))
    near.append(_nearest(value, last, step))
  for side, value, right in zip(SIDES, size, near, strict=True):
    if value != right:
      last = getattr(stages[-1].output, side)
      words = next(words for spec in stages for multiple, words in _needs(spec, side, last) if value % multiple)
      raise UserError(f"{said}: {words}: expected size={near[0]}x{near[1]}, the nearest")


def _needs(spec: StageSpec, side: str, last: int) -> list[tuple[int, str]]:
  """The number of which a side of the last stage's clips must be a multiple, so that this stage's output and input fit.

  Args:
    last: this side of the last stage's own clips.
  """
  output, stride = getattr(spec.output, side), spec.unet.stride
  needs = [(Fraction(output, last * stride).denominator, f"{side}s of stage {spec.name} are multiples of {stride}")]
  if spec.lowres is not None:
    small = getattr(spec.lowres.input, side)
    needs.append((Fraction(small, last).denominator, f"the {side} of stage {spec.name} is {Fraction(output, small)} of its input's"))
  return needs


def _nearest(value: int, own: int, step: int) -> int:
  """The number nearest to `value` among the multiples of `step` and `own`, which need not be a multiple."""
  highest = MOST_SIDE // step * step
  multiple = min(max(1, round(value / step)) * step, highest or own)
  return min((own, multiple), key=lambda right: (abs(right - value), right))


def _scaled_stage(spec: StageSpec, factors: dict[str, Fraction]) -> StageSpec:
  def scaled(clip: ClipShape) -> ClipShape:
    return dataclasses.replace(clip, **{side: int(getattr(clip, side) * factor) for side, factor in factors.items()})

  lowres = spec.lowres and dataclasses.replace(spec.lowres, input=scaled(spec.lowres.input))
  return dataclasses.replace(spec, output=scaled(spec.output), lowres=lowres)
