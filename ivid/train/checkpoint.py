"""Orbax checkpoints: params, ema, optimizer, data index and spec as named items of one step.

By CheckpointManager, not by `orbax.checkpoint.v1`: up to Orbax 0.12 that is a name for `orbax.checkpoint.experimental.v1`, whose calls were
renamed between 0.11 and 0.12, whose JSON items lie in another file than those of the runs that exist, and which by default skips a save
while another is in progress. Orbax 1.0 makes it the only API: hence the upper bound in setup.py.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Annotated

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping

from ivid.spec import convert, formats
from ivid.spec.compare import stage_difference
from ivid.spec.errors import UserError
from ivid.spec.files import as_spec
from ivid.spec.limits import LARGEST_SEED
from ivid.spec.ranges import Range, check_ranges
from ivid.spec.run import CheckpointSpec
from ivid.spec.stage import StageSpec
from ivid.steps import TrainState
from ivid.weights.ema import AVERAGES, FOLDER, SNAPSHOTS, WIDTHS, first_line, read_spec, read_widths


@dataclasses.dataclass(frozen=True)
class Seen:
  """What a run has behind it.

  Attributes:
    next_index: index of the first example it has not seen.
    flops: of all updates so far; None: begun before this was counted.
  """

  next_index: Annotated[int, Range(0, LARGEST_SEED)]
  flops: Annotated[float, Range(0, math.inf, below=True)] | None = None

  def __post_init__(self):
    check_ranges(self, "")


class Checkpointer:
  """Checkpoints of one run, in `workdir`/checkpoints/<step>/."""

  def __init__(self, workdir: pathlib.Path, spec: CheckpointSpec, stage: StageSpec, *, widths: Sequence[float] = ()):
    """widths: relative widths of the state's power-function averages, of which snapshots are kept in `workdir`/snapshots/<step>/."""
    self._stage, self._widths = stage, tuple(widths)
    self._folder = pathlib.Path(workdir).resolve() / FOLDER
    kept = [keeping.LatestN(spec.max_to_keep)]
    if spec.keep_period:
      kept.append(keeping.EveryNSteps(spec.keep_period))
    options = ocp.CheckpointManagerOptions(preservation_policy=keeping.AnyPreservationPolicy(kept))
    self._manager = ocp.CheckpointManager(self._folder, options=options)
    # Barriers of its own: both managers may be writing the same step, each in a thread.
    apart = ocp.CheckpointManagerOptions(multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=SNAPSHOTS))
    self._snapshots = ocp.CheckpointManager(self._folder.with_name(SNAPSHOTS), options=apart) if widths else None

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def save(self, state: TrainState, seen: Seen) -> None:
    """Saves the state and what it has seen. All processes call this."""
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    items = dict(
      params=ocp.args.StandardSave(state.params),
      ema=ocp.args.StandardSave(state.ema),
      optimizer=ocp.args.StandardSave(state.opt_state),
      data=ocp.args.JsonSave(formats.stamped(dataclasses.asdict(seen))),
      meta=ocp.args.JsonSave(formats.stamped({"step": step, "stage": convert.to_dict(self._stage)})),
    )
    if self._widths:
      items |= self._averages(state)
    self._manager.save(step, args=ocp.args.Composite(**items))

  def snapshot(self, state: TrainState) -> None:
    """Keeps the power-function averages of this step for good, where the run has some. All processes call this."""
    if self._snapshots is not None and int(state.step) not in self._snapshots.all_steps():
      self._snapshots.save(int(state.step), args=ocp.args.Composite(**self._averages(state)))

  def _averages(self, state: TrainState) -> dict[str, ocp.args.CheckpointArgs]:
    widths = ocp.args.JsonSave(formats.stamped({"widths": list(self._widths)}))
    return {AVERAGES: ocp.args.StandardSave(list(state.averages)), WIDTHS: widths}

  def restore(self, abstract: TrainState) -> tuple[TrainState, Seen]:
    """The latest state straight into the shardings of `abstract`, and what it has seen.

    Raises:
      UserError: the checkpoint is of another stage, of a run with other power-function averages, or cannot be read.
    """
    step = self._manager.latest_step()
    path = self._folder / str(step)
    difference = stage_difference(read_spec(path), self._stage)
    if difference:
      raise UserError(f"checkpoint {path} is of another stage: {difference}")
    found = tuple(read_widths(path))
    if found != self._widths:
      raise UserError(f"train.ema_widths={self._widths}: checkpoint {path} was trained with {found}: expected the same, or a new --workdir")
    wanted = dict(
      params=ocp.args.StandardRestore(abstract.params),
      ema=ocp.args.StandardRestore(abstract.ema),
      optimizer=ocp.args.StandardRestore(abstract.opt_state),
      data=ocp.args.JsonRestore(),
    )
    if self._widths:
      wanted[AVERAGES] = ocp.args.StandardRestore(list(abstract.averages))
    try:
      items = self._manager.restore(step, args=ocp.args.Composite(**wanted))
    except Exception as error:  # Orbax and TensorStore raise many classes for damaged files
      raise UserError(f"checkpoint {path} cannot be read: {first_line(error)}") from None
    for later in [] if self._snapshots is None else self._snapshots.all_steps():
      if later > step:  # of updates that the run does not go on from
        self._snapshots.delete(later)
    step_array = jax.device_put(jax.numpy.asarray(step, jax.numpy.int32), abstract.step.sharding)
    state = TrainState(
      step=step_array, params=items["params"], ema=items["ema"], opt_state=items["optimizer"], averages=tuple(items.get(AVERAGES) or ())
    )
    source = f"checkpoint {path}"
    return state, as_spec(Seen, formats.migrate(items["data"], formats.Kind.DATA, source=source), source=source)

  def wait(self) -> None:
    """Blocks until what was saved is on disk."""
    for manager in self._managers():
      manager.wait_until_finished()

  def close(self) -> None:
    for manager in self._managers():
      manager.close()

  def _managers(self) -> list[ocp.CheckpointManager]:
    return [manager for manager in (self._manager, self._snapshots) if manager is not None]
