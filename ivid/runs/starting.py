"""Where a run starts: from scratch, from other weights, or from one of its checkpoints."""

from __future__ import annotations

import pathlib
from typing import Any

from ivid.nets.second_way_up import from_teacher
from ivid.spec.run import RunSpec
from ivid.spec.stage import StageSpec
from ivid.steps import TrainState
from ivid.train import phases
from ivid.train.checkpoint import Checkpointer, Seen
from ivid.train.phases import Phase
from ivid.train.rngs import stream
from ivid.train.run import Training, warm_start
from ivid.weights.ema import say
from ivid.weights.opening import open_stage


def first_state(run: RunSpec, training: Training, checkpointer: Checkpointer, back: int, teacher: Any) -> tuple[TrainState, Seen]:
  """The state that the run starts from, and what it has seen.

  It is the newest state in the work folder, or that of step `back` if given, or a new one, with the weights of a teacher or init_from.
  """
  if checkpointer.latest_step() is not None:
    return checkpointer.restore(training.state, back)
  state = training.init.jit()(stream(run.train.seed, "init"))
  weights = teacher and from_teacher(teacher, training.stage.spec.unet)
  if weights is None and run.train.init_from:
    weights = open_stage(run.train.init_from, run.stage, flag="train.init_from")[1]
  return state if weights is None else warm_start(state, weights), Seen(0, 0.0)


def resumed(all_phases: tuple[Phase, ...], step: int, seen: Seen, total: int, stage: StageSpec, workdir: pathlib.Path) -> tuple[Phase, ...]:
  """The phases as they continue from a checkpoint, and lines that say so."""
  phase = phases.phase_at(all_phases, step)
  of_phase = f" of phase {phase.name}" if phase.name else ""
  complete = f"{workdir} is complete at step {step}: train.steps={total} asks for no more"
  say(f"resuming {workdir} at step {step}{of_phase}" if step < total else complete)
  if seen.next_index != phase.index_at(step) and step < total:
    say(f"the batches up to here held {seen.next_index} examples, of today's size {phase.index_at(step)}: indices count on from there")
  return phases.counted_on(all_phases, step, seen.next_index, seen.drawn, stage)
