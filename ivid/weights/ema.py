"""What others read of a run's Orbax checkpoints: the stage's spec, the step, and the EMA weights."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.path import step as steps

from ivid.spec import formats
from ivid.spec.errors import UserError
from ivid.spec.files import read_spec as read_file
from ivid.spec.phase import Updates
from ivid.spec.run import Width
from ivid.spec.stage import StageSpec
from ivid.weights.finite import check_finite

T = TypeVar("T")
FOLDER = "checkpoints"  # of a work folder
SNAPSHOTS = "snapshots"  # of a work folder: power-function averages (ivid.weights.averages)
EMA, META = "ema", "meta"  # items of a checkpoint
AVERAGES, WIDTHS = "averages", "widths"  # items of a checkpoint and of a snapshot


def is_run(folder: str | pathlib.Path) -> bool:
  """Whether it is the work folder of a run that has begun to save."""
  return (pathlib.Path(folder) / FOLDER).is_dir()


def latest_step(workdir: str | pathlib.Path) -> int:
  """Step of a run's latest finished checkpoint; 0 where there is none."""
  folder = pathlib.Path(workdir).resolve() / FOLDER
  return max(steps.checkpoint_steps(folder), default=0) if folder.is_dir() else 0


def load_spec(workdir: str | pathlib.Path) -> StageSpec:
  """The stage of a run, from its latest checkpoint.

  Raises:
    UserError: no run there, no finished checkpoint, or an unreadable one.
  """
  return read_spec(_latest(workdir))


def load_ema(workdir: str | pathlib.Path) -> tuple[StageSpec, Any, int]:
  """The stage of a run's latest checkpoint, its EMA weights on the first local device, and the step.

  Raises:
    UserError: as `load_spec`.
  """
  path = _latest(workdir)
  return read_spec(path), _restored(path, EMA), int(path.name)


def snapshot_steps(workdir: str | pathlib.Path) -> list[int]:
  """Steps of a run's snapshots in order; [] where there are none."""
  folder = pathlib.Path(workdir).resolve() / SNAPSHOTS
  return sorted(steps.checkpoint_steps(folder)) if folder.is_dir() else []


def load_snapshot(workdir: str | pathlib.Path, step: int) -> list[Any]:
  """The averages in a snapshot, a tree for each of its widths, on the first local device.

  Raises:
    UserError: it cannot be read.
  """
  return _restored(snapshot_path(workdir, step), AVERAGES)


def snapshot_path(workdir: str | pathlib.Path, step: int) -> pathlib.Path:
  """Folder of a snapshot."""
  return pathlib.Path(workdir).resolve() / SNAPSHOTS / str(step)


def read_widths(path: pathlib.Path) -> list[float]:
  """Relative widths of the power-function averages in a checkpoint or snapshot; [] where it has none.

  Raises:
    UserError: they cannot be read.
  """
  file = path / WIDTHS / "metadata"
  return list(_metadata(_Widths, file, formats.Kind.DATA, path).widths) if file.exists() else []


def read_spec(path: pathlib.Path) -> StageSpec:
  """The stage of one checkpoint, the folder `path`; errors as of `load_spec`."""
  return _metadata(_Meta, path / META / "metadata", formats.Kind.CHECKPOINT, path).stage


@dataclasses.dataclass(frozen=True)
class _Meta:
  """The item META."""

  stage: StageSpec
  step: Updates


@dataclasses.dataclass(frozen=True)
class _Widths:
  """The item WIDTHS."""

  widths: tuple[Width, ...]


def _metadata(cls: type[T], file: pathlib.Path, kind: formats.Kind, path: pathlib.Path) -> T:
  """The spec in a JSON item of the checkpoint `path`."""
  try:
    return read_file(cls, file, kind, source=f"checkpoint {path} cannot be read: its {file.parent.name}")
  except OSError as error:
    raise UserError(f"checkpoint {path} cannot be read: {first_line(error)}") from None


def first_line(error: Exception) -> str:
  """What went wrong, in short: Orbax's messages have pages."""
  return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _restored(path: pathlib.Path, item: str) -> Any:
  """A tree of arrays of a checkpoint or snapshot, on the first local device; UserError if it cannot be read or holds what is no number."""
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      stored = ocp.StandardCheckpointHandler().metadata(path / item).tree  # the checkpointer's own warns of a file that items never have
      target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), stored)
      tree = checkpointer.restore(path / item, target)
  except Exception as error:  # Orbax and TensorStore raise many classes for damaged files
    raise UserError(f"checkpoint {path} cannot be read: {first_line(error)}") from None
  for keys, array in jax.tree_util.tree_leaves_with_path(tree):
    check_finite(np.asarray(array), f"checkpoint {path}: {item} {jax.tree_util.keystr(keys, simple=True, separator='/')}")
  return tree


def _latest(workdir: str | pathlib.Path) -> pathlib.Path:
  folder = pathlib.Path(workdir).resolve() / FOLDER
  if not latest_step(workdir):
    students = sorted(path.parent.name for path in pathlib.Path(workdir).glob(f"*/{FOLDER}"))
    hint = f" (a distillation: one of its folders {', '.join(students)})" if students else ""
    raise UserError(f"no checkpoint in {folder}: expected the work folder of a run that has saved at least once{hint}")
  return folder / str(latest_step(workdir))
