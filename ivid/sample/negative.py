"""A negative prompt: what the unconditional evaluation of classifier-free guidance reads instead of no text."""

from __future__ import annotations

from collections.abc import Sequence

from ivid.spec.errors import UserError, shown
from ivid.spec.record import check_prompt
from ivid.spec.stage import StageSpec
from ivid.stage import evaluations_per_step


def check_negative(stages: Sequence[StageSpec], negative: str) -> str:
  """What is to be said of a negative prompt for these stages, in one line: that none of them reads it; empty where one does, or without it.

  Raises:
    UserError: a blank one, one that is too long, or a distilled stage whose guidance it would have to change.
  """
  if not negative:
    return ""
  if not negative.strip():
    raise UserError(f"negative_prompt={negative!r} is blank: expected what the clip is not to show, or none")
  check_prompt(negative)
  for spec in stages:
    weights = [w for w in (spec.sampling.guidance.weight, spec.sampling.guidance.low) if w]
    if spec.student is not None and weights:
      raise UserError(
        f"negative_prompt={shown(negative)}: stage {spec.name} was distilled, and its guidance ({weights[0]:g}) is in its weights: "
        "expected a cascade with its teacher, or no negative prompt"
      )
  if any(reads_negative(spec) for spec in stages):
    return ""
  return f"negative_prompt={shown(negative)} changes nothing: no stage that runs ({', '.join(spec.name for spec in stages)}) has guidance"


def reads_negative(spec: StageSpec) -> bool:
  """Whether the stage is sampled with an evaluation that would read it."""
  return evaluations_per_step(spec, spec.sampling) > 1
