"""The phases of a run: named parts of one training, each with its own frames, batches and noise."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax

from ivid.data.mixture import NOTHING, Drawn, drawn
from ivid.spec.errors import UserError, nearest
from ivid.spec.run import Decay, OptimizerSpec, TrainSpec
from ivid.spec.stage import StageSpec
from ivid.spec.view import make_view


@dataclasses.dataclass(frozen=True)
class Phase:
  """One part of a run; if `train.phases` is empty, the whole run is one phase.

  Attributes:
    name: that of the PhaseSpec; empty if the run is a single phase.
    train: the run's TrainSpec with this phase's values, `steps` of this phase, and no phases.
    first_step: number of updates before it.
    first_index: number of examples seen before it, since the index of an example counts over all phases. If the batch size of the run has
      changed, this is the number for which the current batch size gives the right indices now; it is negative if batches were smaller.
    extra: clips and images that such a run has drawn beyond what the phases say; None if its batches never changed.
  """

  name: str
  train: TrainSpec
  first_step: int = 0
  first_index: int = 0
  extra: Drawn | None = None

  @property
  def end(self) -> int:
    """The number of updates at its end."""
    return self.first_step + self.train.steps  # pyright: ignore[reportOperatorIssue]  `resolve` gives every phase its updates

  def index_at(self, step: int) -> int:
    """The index of the first example of update number `step` of the run."""
    return self.first_index + (step - self.first_step) * self.train.batch_size


def resolve(train: TrainSpec) -> tuple[Phase, ...]:
  """The phases of a run in order. `train.steps` may end the run before their sum."""
  if not train.phases:
    return (Phase("", dataclasses.replace(train, steps=train.total_steps)),)
  phases: list[Phase] = []
  for spec in train.phases:
    said: dict[str, Any] = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name != "name"}
    given = {name: value for name, value in said.items() if value is not None}
    rate, neighbours = given.pop("learning_rate", None), given.pop("neighbours", False)
    optimizer = train.optimizer if rate is None else dataclasses.replace(train.optimizer, learning_rate=rate)
    if given.get("frames"):  # the phase chooses its own frames, so only the spatial part of the run's crop stays
      given["crop"] = dataclasses.replace(train.crop, frames=0)
    if neighbours:  # a run of frames is a crop in time, at the clip's own rate
      given["crop"] = dataclasses.replace(train.crop, frames=given.pop("frames", train.frames))
      given["frames"] = 0
    before = phases[-1] if phases else None
    at: dict[str, Any] = dict(first_step=before.end, first_index=before.index_at(before.end)) if before else {}
    phases.append(Phase(spec.name, dataclasses.replace(train, phases=(), optimizer=optimizer, **given), **at))
  return tuple(phases)


def remaining(phases: tuple[Phase, ...], step: int, total: int) -> tuple[Phase, ...]:
  """The phases that are not over after `step` updates and begin before `total`; the last one ends at `total`."""
  left = [phase for phase in phases if phase.end > step and phase.first_step < total]
  return tuple(
    dataclasses.replace(phase, train=dataclasses.replace(phase.train, steps=min(phase.end, total) - phase.first_step)) for phase in left
  )


def phase_at(phases: tuple[Phase, ...], step: int) -> Phase:
  """The phase of the update that follows `step` updates; at the end of the run, the last phase."""
  return next((phase for phase in phases if step < phase.end), phases[-1])


def named(phases: tuple[Phase, ...], name: str) -> Phase:
  """The phase of that name, or the last one if the name is empty.

  Raises:
    UserError: there is none.
  """
  if not name:
    return phases[-1]
  for phase in phases:
    if phase.name == name:
      return phase
  known = [phase.name for phase in phases if phase.name]
  raise UserError(f"phase {name!r}: {nearest(name, known) if known else 'this run has none, expected no --phase'}")


def check_phases(phases: tuple[Phase, ...], stage: StageSpec) -> None:
  """Raises UserError, which names the phase, if a phase asks for frames or a crop that the stage does not have."""
  for phase in phases:
    try:
      make_view(phase.train, stage)
    except ValueError as error:
      raise UserError(f"phase {phase.name!r}: {error}" if phase.name else str(error)) from None


def drawn_before(phases: tuple[Phase, ...], phase: Phase, stage: StageSpec) -> Drawn:
  """Clips and images that the phases before `phase` drew."""
  extra = phase.extra or NOTHING
  clips, images = extra.clips, extra.images
  for earlier in phases:
    if earlier.first_step < phase.first_step:
      found = drawn(earlier.train, make_view(earlier.train, stage), earlier.train.steps * earlier.train.batch_size)
      clips, images = clips + found.clips, images + found.images
  return Drawn(clips, images)


def drawn_at(phases: tuple[Phase, ...], phase: Phase, step: int, stage: StageSpec) -> Drawn:
  """Clips and images drawn up to update `step` of the run, which is in `phase`."""
  before = drawn_before(phases, phase, stage)
  found = drawn(phase.train, make_view(phase.train, stage), (step - phase.first_step) * phase.train.batch_size)
  return Drawn(before.clips + found.clips, before.images + found.images)


def counted_on(phases: tuple[Phase, ...], step: int, next_index: int, drawn_then: Drawn | None, stage: StageSpec) -> tuple[Phase, ...]:
  """The phases of a run whose next example after `step` updates is `next_index`, whatever its batch sizes were; indices count from there.

  The rest of the run depends only on these numbers, which every checkpoint has, so that a later stop and resume changes nothing.

  Args:
    drawn_then: clips and images drawn so far, according to a checkpoint; None: as many as the phases say. If the index contradicts this,
      they are counted from the examples of the current phase if earlier phases agree with the index, else estimated in proportion.
  """
  phase = phase_at(phases, step)
  first, ahead = phase.first_index, next_index - phase.index_at(step)
  if not ahead and drawn_then is None:
    return phases
  told = drawn_at(phases, phase, step, stage)
  if drawn_then is None and step > phase.first_step and next_index >= first:
    before, here = drawn_before(phases, phase, stage), drawn(phase.train, make_view(phase.train, stage), next_index - first)
    drawn_then = Drawn(before.clips + here.clips, before.images + here.images)
  elif drawn_then is None:
    share = next_index / max(phase.index_at(step), 1)
    drawn_then = Drawn(round(told.clips * share), round(told.images * share))
  extra = Drawn(drawn_then.clips - told.clips, drawn_then.images - told.images)
  return tuple(dataclasses.replace(one, first_index=one.first_index + ahead, extra=extra) for one in phases)


def learning_rate(phases: tuple[Phase, ...]) -> optax.Schedule:
  """The learning rate per update: in each phase a linear warm-up from the last rate of the previous phase, then the spec's decay."""
  schedules, end = [], 0.0
  for phase in phases:
    schedules.append(_warmup_and_decay(phase.train.optimizer, phase.train.steps, start=end))  # pyright: ignore[reportArgumentType]  `resolve` gives every phase its updates
    end = float(schedules[-1](phase.train.steps))
  return optax.join_schedules(schedules, [phase.end for phase in phases[:-1]])


def warmup_steps(spec: OptimizerSpec, steps: int) -> int:
  """Updates of a phase's warm-up: those of the spec, or all but the last one if the phase is shorter."""
  return min(spec.warmup_steps, max(steps - 1, 0))


def _warmup_and_decay(spec: OptimizerSpec, steps: int, *, start: float) -> optax.Schedule:
  warmup = warmup_steps(spec, steps)
  peak, left = spec.learning_rate, max(steps - warmup, 1)
  match spec.decay:
    case Decay.COSINE:
      decay = optax.cosine_decay_schedule(peak, left, alpha=spec.final_fraction)
    case Decay.CONSTANT:
      decay = optax.constant_schedule(peak)
    case Decay.INVERSE_SQRT:
      level = max(warmup, 1)
      decay = lambda step: peak * jnp.sqrt(level / (level + jnp.asarray(step, jnp.float32)))  # noqa: E731
    case Decay.WSD:
      falling = max(1, min(left, round(spec.decay_share * steps)))
      decay = optax.linear_schedule(peak, peak * spec.final_fraction, falling, transition_begin=left - falling)
  return optax.join_schedules([optax.linear_schedule(start, peak, warmup), decay], [warmup]) if warmup else decay
