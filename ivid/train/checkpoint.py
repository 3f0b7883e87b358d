"""Orbax checkpoints: params, ema, optimizer, data index and spec as named items of one step."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from ivid.spec import convert, formats
from ivid.spec.compare import stage_difference
from ivid.spec.run import CheckpointSpec
from ivid.spec.stage import StageSpec
from ivid.stage import Stage, unbox
from ivid.steps import TrainState

FOLDER = "checkpoints"
_ITEMS = ("params", "ema", "optimizer", "data", "meta")


class Checkpointer:
  """Checkpoints of one run, in `workdir`/checkpoints/<step>/."""

  def __init__(self, workdir: pathlib.Path, spec: CheckpointSpec, stage: StageSpec):
    self._stage = stage
    self._folder = pathlib.Path(workdir).resolve() / FOLDER
    self._manager = ocp.CheckpointManager(
      self._folder,
      item_names=_ITEMS,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=spec.max_to_keep, keep_period=spec.keep_period or None, create=True, enable_async_checkpointing=True
      ),
    )

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
        data=ocp.args.JsonSave({"next_index": next_index}),
        meta=ocp.args.JsonSave(formats.stamped({"step": step, "stage": convert.to_dict(self._stage)})),
      ),
    )

  def restore(self, abstract: TrainState) -> tuple[TrainState, int]:
    """The latest state straight into the shardings of `abstract`, and the next example index.

    Raises:
      ValueError: the checkpoint is of another stage, or cannot be read.
    """
    step = self._manager.latest_step()
    path = self._folder / str(step)
    difference = stage_difference(_read_spec(path), self._stage)
    if difference:
      raise ValueError(f"checkpoint {path} is of another stage: {difference}")
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
      raise ValueError(f"checkpoint {path} cannot be read: {_first_line(error)}") from None
    step_array = jax.device_put(jax.numpy.asarray(step, jax.numpy.int32), abstract.step.sharding)
    state = TrainState(step=step_array, params=items["params"], ema=items["ema"], opt_state=items["optimizer"])
    return state, items["data"]["next_index"]

  def wait(self) -> None:
    """Blocks until what was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()


def latest_step(workdir: str | pathlib.Path) -> int:
  """Step of a run's latest finished checkpoint; 0 where there is none."""
  folder = pathlib.Path(workdir).resolve() / FOLDER
  return max(ocp.utils.checkpoint_steps(folder), default=0) if folder.is_dir() else 0


def load_spec(workdir: str | pathlib.Path) -> StageSpec:
  """The stage of a run, from its latest checkpoint; ValueError where there is none."""
  return _read_spec(_latest(workdir))


def load_ema(workdir: str | pathlib.Path) -> tuple[StageSpec, Any, int]:
  """EMA weights of a run's latest checkpoint on the first local device, with the stage's spec and the step.

  Raises:
    ValueError: no run there, no finished checkpoint, or an unreadable one.
  """
  path = _latest(workdir)
  spec = _read_spec(path)
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), unbox(Stage(spec).abstract_params()))
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      params = checkpointer.restore(path / "ema", target)
  except Exception as error:  # Orbax and TensorStore raise many classes for damaged files
    raise ValueError(f"checkpoint {path} cannot be read: {_first_line(error)}") from None
  return spec, params, int(path.name)


def _latest(workdir: str | pathlib.Path) -> pathlib.Path:
  folder = pathlib.Path(workdir).resolve() / FOLDER
  if not latest_step(workdir):
    students = sorted(path.parent.name for path in pathlib.Path(workdir).glob(f"*/{FOLDER}"))
    hint = f" (a distillation: one of its folders {', '.join(students)})" if students else ""
    raise ValueError(f"no checkpoint in {folder}: expected the work folder of a run that has saved at least once{hint}")
  return folder / str(latest_step(workdir))


def _read_spec(path: pathlib.Path) -> StageSpec:
  try:
    found = json.loads((path / "meta" / "metadata").read_text(encoding="utf-8"))
  except (OSError, json.JSONDecodeError) as error:
    raise ValueError(f"checkpoint {path} cannot be read: {_first_line(error)}") from None
  return convert.from_dict(StageSpec, formats.migrate(found, formats.Kind.CHECKPOINT, source=f"checkpoint {path}")["stage"])


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0][:200]
