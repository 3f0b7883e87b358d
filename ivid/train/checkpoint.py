"""Orbax checkpoints: params, ema, optimizer, data index and spec as named items of one step.

By CheckpointManager, not by `orbax.checkpoint.v1`: up to Orbax 0.12 that is a name for `orbax.checkpoint.experimental.v1`, whose calls were
renamed between 0.11 and 0.12, whose JSON items lie in another file than those of the runs that exist, and which by default skips a save
while another is in progress. Orbax 1.0 makes it the only API: hence the upper bound in setup.py.
"""

from __future__ import annotations

import pathlib

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping

from ivid.spec import convert, formats
from ivid.spec.compare import stage_difference
from ivid.spec.errors import UserError
from ivid.spec.run import CheckpointSpec
from ivid.spec.stage import StageSpec
from ivid.steps import TrainState
from ivid.weights.ema import FOLDER, first_line, read_spec


class Checkpointer:
  """Checkpoints of one run, in `workdir`/checkpoints/<step>/."""

  def __init__(self, workdir: pathlib.Path, spec: CheckpointSpec, stage: StageSpec):
    self._stage = stage
    self._folder = pathlib.Path(workdir).resolve() / FOLDER
    kept = [keeping.LatestN(spec.max_to_keep)]
    if spec.keep_period:
      kept.append(keeping.EveryNSteps(spec.keep_period))
    options = ocp.CheckpointManagerOptions(preservation_policy=keeping.AnyPreservationPolicy(kept))
    self._manager = ocp.CheckpointManager(self._folder, options=options)

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def save(self, state: TrainState, *, next_index: int) -> None:
    """Saves the state and the index of the first example it has not seen. All processes call this."""
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        ema=ocp.args.StandardSave(state.ema),
        optimizer=ocp.args.StandardSave(state.opt_state),
        data=ocp.args.JsonSave(formats.stamped({"next_index": next_index})),
        meta=ocp.args.JsonSave(formats.stamped({"step": step, "stage": convert.to_dict(self._stage)})),
      ),
    )

  def restore(self, abstract: TrainState) -> tuple[TrainState, int]:
    """The latest state straight into the shardings of `abstract`, and the next example index.

    Raises:
      UserError: the checkpoint is of another stage, or cannot be read.
    """
    step = self._manager.latest_step()
    path = self._folder / str(step)
    difference = stage_difference(read_spec(path), self._stage)
    if difference:
      raise UserError(f"checkpoint {path} is of another stage: {difference}")
    try:
      items = self._manager.restore(
        step,
        args=ocp.args.Composite(
          params=ocp.args.StandardRestore(abstract.params),
          ema=ocp.args.StandardRestore(abstract.ema),
          optimizer=ocp.args.StandardRestore(abstract.opt_state),
          data=ocp.args.JsonRestore(),
        ),
      )
    except Exception as error:  # Orbax and TensorStore raise many classes for damaged files
      raise UserError(f"checkpoint {path} cannot be read: {first_line(error)}") from None
    step_array = jax.device_put(jax.numpy.asarray(step, jax.numpy.int32), abstract.step.sharding)
    state = TrainState(step=step_array, params=items["params"], ema=items["ema"], opt_state=items["optimizer"])
    return state, formats.migrate(items["data"], formats.Kind.DATA, source=f"checkpoint {path}")["next_index"]

  def wait(self) -> None:
    """Blocks until what was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()
