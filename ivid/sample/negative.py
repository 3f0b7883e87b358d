"""A negative prompt: what the unconditional evaluation of classifier-free guidance reads instead of no text."""

from __future__ import annotations

from collections.abc import Sequence

from ivid.spec.errors import UserError, shown
from ivid.spec.record import check_prompt
from ivid.spec.stage import StageSpec
from ivid.stage import evaluations_per_step


def check_negative(stages: Sequence[StageSpec], negative: str) -> str:
  """One line for the user if none of these stages reads the negative prompt; empty if one does, or if there is no such prompt.

  Raises:
    UserError: it is blank or too long, or there is a distilled stage whose guidance it would have to change.
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
  """Whether sampling the stage includes an evaluation that reads a negative prompt."""
  return evaluations_per_step(spec, spec.sampling) > 1
