"""The parts of a run's Orbax checkpoints that other modules read: the stage's spec, the step, and the EMA weights."""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.path import step as steps

from ivid.parallel.distributed import is_first
from ivid.spec import convert, formats
from ivid.spec.errors import UserError, first_line, shown
from ivid.spec.files import parse_json, read_json
from ivid.spec.run import Width
from ivid.spec.stage import StageSpec
from ivid.weights.finite import check_finite
from ivid.weights.kept import FOLDER, check_kept, finished_steps, no_checkpoint, place, run_and_step
from ivid.weights.sums import first_changed, host_sums, named_leaves

SNAPSHOTS = "snapshots"  # folder in a work folder for power-function averages (ivid.weights.averages)
EMA, META = "ema", "meta"  # items of a checkpoint
AVERAGES, WIDTHS = "averages", "widths"  # items of a checkpoint and of a snapshot
SUMS = "sums"  # in a checkpoint's meta, and in a snapshot's widths: of every array by its name (ivid.weights.sums)
MARKER = "_CHECKPOINT_METADATA"  # Orbax's own file, which marks a finished checkpoint

T = TypeVar("T")


class Damaged(UserError):
  """A checkpoint cannot be read, or is not what was written."""


def load_spec(workdir: str | pathlib.Path) -> StageSpec:
  """The stage of a run, from its newest checkpoint that can be read, or from the one whose folder is given (`run_and_step`).

  Raises:
    UserError: there is no run, no finished checkpoint, or none that can be read.
  """
  return newest(workdir, read_spec)


def load_ema(workdir: str | pathlib.Path) -> tuple[StageSpec, Any, int]:
  """The stage of a run's newest intact checkpoint, its EMA weights on the first local device, and the step.

  For the folder of one checkpoint (`run_and_step`), it is that one. Nothing in the folder changes, because a trainer may be writing there.

  Raises:
    UserError: as `load_spec`.
  """

  def read(path: pathlib.Path) -> tuple[StageSpec, Any, int]:
    spec = read_spec(path)
    return spec, _restored(path, EMA, read_meta(path).get(SUMS)), int(path.name)

  return newest(workdir, read)


def newest(workdir: str | pathlib.Path, read: Callable[[pathlib.Path], T]) -> T:
  """The result of `read` for the newest checkpoint for which it does not raise Damaged. Prints which others were skipped.

  For the folder of one checkpoint (`run_and_step`), it is that one or none.

  Raises:
    UserError: there is no checkpoint, or not that one.
    Damaged: of the newest checkpoint, if all are damaged.
  """
  run, only = run_and_step(workdir)
  if only is not None:
    check_kept(run, only, str(workdir))
    return read(place(run) / FOLDER / str(only))
  damaged: list[Damaged] = []
  for step in finished_steps(workdir):
    path = place(workdir) / FOLDER / str(step)
    try:
      found = read(path)
    except Damaged as error:
      if not path.exists():  # meanwhile, the run has saved others and deleted this one
        return newest(workdir, read)
      damaged.append(error)
      continue
    for error in damaged:
      say(f"{error}; taking that of step {step} instead")
    return found
  if damaged:
    raise damaged[0]
  raise UserError(no_checkpoint(workdir))


def say(line: str) -> None:
  """Prints a line for the user, in addition to a command's output, in process 0."""
  if is_first():
    print(line, file=sys.stderr, flush=True)


def snapshot_steps(workdir: str | pathlib.Path) -> list[int]:
  """Steps of a run's snapshots in order; [] if there are none."""
  folder = place(workdir) / SNAPSHOTS
  return sorted(steps.checkpoint_steps(folder)) if folder.is_dir() else []


def load_snapshot(workdir: str | pathlib.Path, step: int) -> list[Any]:
  """The averages in a snapshot, one tree per width, on the first local device.

  Raises:
    Damaged: it cannot be read.
  """
  path = snapshot_path(workdir, step)
  return _restored(path, AVERAGES, _read_json(path, WIDTHS).get(SUMS))


def snapshot_path(workdir: str | pathlib.Path, step: int) -> pathlib.Path:
  """Folder of a snapshot."""
  return place(workdir) / SNAPSHOTS / str(step)


def read_widths(path: pathlib.Path) -> list[float]:
  """Relative widths of the power-function averages in a checkpoint or snapshot; [] if it has none.

  Raises:
    Damaged: they cannot be read.
  """
  if not (path / WIDTHS).exists():
    return []
  return list(_as_spec(_Widths, path, {"widths": _field(path, _read_json(path, WIDTHS), "widths")}).widths)


@dataclasses.dataclass(frozen=True)
class _Widths:
  """The item WIDTHS, without its sums."""

  widths: tuple[Width, ...]


def read_meta(path: pathlib.Path) -> dict[str, Any]:
  """The metadata of the checkpoint in the folder `path`: its stage, and the sums of its arrays.

  Raises:
    Damaged: it cannot be read, or is not finished.
    UserError: it has a newer format.
  """
  if not (path / MARKER).is_file():
    raise Damaged(f"checkpoint {path} has no {MARKER}: it is not finished, or was not copied whole")
  return _read_json(path, META, formats.Kind.CHECKPOINT)


def read_spec(path: pathlib.Path, kind: type[T] = StageSpec) -> T:
  """The spec, of that `kind`, of the checkpoint in the folder `path`. Raises the errors of `read_meta`."""
  return _as_spec(kind, path, _field(path, read_meta(path), "stage"))


def read_data(path: pathlib.Path, item: str) -> dict[str, Any]:
  """A JSON item of a checkpoint or snapshot other than its meta. Raises the errors of `read_meta`."""
  return _read_json(path, item)


def read_arrays(path: pathlib.Path, item: str, target: Any = None) -> Any:
  """A tree of arrays of a checkpoint or snapshot, into the shardings of `target`; None: on the first local device.

  Every process that `target` involves calls this. None waits for another, so that one may fail alone.

  Raises:
    Damaged: it cannot be read.
  """
  quiet_orbax()
  _check_described(path, item)
  handler = ocp.StandardCheckpointHandler()  # a checkpointer would wait for all processes
  try:
    if target is None:
      sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
      target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), handler.metadata(path / item).tree)  # pyright: ignore[reportArgumentType]  Orbax takes paths of pathlib too
    return handler.restore(path / item, args=ocp.args.StandardRestore(target))  # pyright: ignore[reportArgumentType]  Orbax takes paths of pathlib too
  except Exception as error:  # Orbax and TensorStore raise many classes for damaged files
    raise Damaged(f"checkpoint {path} cannot be read: {first_line(error)}") from None
  finally:
    handler.close()


def read_shapes(path: pathlib.Path, item: str) -> dict[str, tuple[int, ...]]:
  """The shapes of a checkpoint's arrays by their names (ivid.weights.sums.named_leaves). Raises the errors of `read_arrays`."""
  quiet_orbax()
  _check_described(path, item)
  try:
    tree = ocp.StandardCheckpointHandler().metadata(path / item).tree  # pyright: ignore[reportArgumentType]  Orbax takes paths of pathlib too
    return {name: tuple(leaf.shape) for name, leaf in named_leaves({item: tree}).items()}
  except Exception as error:  # as above
    raise Damaged(f"checkpoint {path} cannot be read: {first_line(error)}") from None


def check_sums(path: pathlib.Path, have: dict[str, int], want: dict[str, int] | None) -> None:
  """Raises Damaged, which names the first array that is not as saved. `want` None: there are no sums, which is printed."""
  if want is None:
    say(f"checkpoint {path} was written without sums of its arrays: they are not checked")
  elif changed := first_changed(have, want):
    raise Damaged(f"checkpoint {path} is damaged: {changed} is not what was saved")


def quiet_orbax() -> None:
  """Hides what Orbax logs, since all of it also comes as exceptions or does not concern the user.

  It also hides what Orbax's other reads log when one has failed, since they end after the event loop that waited for them.
  """
  logger = logging.getLogger("absl")
  if _not_of_orbax not in logger.filters:
    logger.addFilter(_not_of_orbax)
    sys.unraisablehook = functools.partial(_unless_loop_is_closed, sys.unraisablehook)


def _unless_loop_is_closed(hook: Callable[[Any], None], raised: Any) -> None:
  if not (isinstance(raised.exc_value, RuntimeError) and str(raised.exc_value) == "Event loop is closed"):
    hook(raised)


def _not_of_orbax(record: logging.LogRecord) -> bool:
  return "orbax" not in pathlib.PurePath(record.pathname).parts


def _restored(path: pathlib.Path, item: str, sums: dict[str, int] | None) -> Any:
  """A tree of arrays on the first local device. Raises UserError if it contains NaN or infinities."""
  tree = read_arrays(path, item)
  own = None if sums is None else {name: value for name, value in sums.items() if name.startswith(f"{item}/")}
  check_sums(path, {} if own is None else host_sums({item: tree}), own)
  for name, array in named_leaves({item: tree}).items():
    check_finite(np.asarray(array), f"checkpoint {path}: {name}")
  return tree


def _check_described(path: pathlib.Path, item: str) -> None:
  """Reads Orbax's JSON description of a tree before TensorStore does, because deeply nested lists would end the whole process there.

  Raises:
    Damaged: it cannot be read.
  """
  for file in (path / item / "_METADATA", path / item / "_sharding"):
    if file.is_file():
      try:
        parse_json(file.read_bytes(), source=f"its {item}/{file.name}")
      except UserError as error:
        raise Damaged(f"checkpoint {path} cannot be read: {error}") from None


def _read_json(path: pathlib.Path, item: str, kind: formats.Kind = formats.Kind.DATA) -> dict[str, Any]:
  file = path / item / "metadata"
  try:
    found = read_json(file, source=f"its {item}/metadata")
  except OSError as error:
    raise Damaged(f"checkpoint {path} cannot be read: {item}/metadata: {error.strerror or first_line(error)}") from None
  except UserError as error:
    raise Damaged(f"checkpoint {path} cannot be read: {error}") from None
  if not isinstance(found, dict):
    raise Damaged(f"checkpoint {path} cannot be read: {item}/metadata holds no JSON object")
  sums = found.get(SUMS)
  if sums is not None and not (isinstance(sums, dict) and all(type(value) is int for value in sums.values())):
    raise Damaged(f"checkpoint {path} cannot be read: {SUMS} in {item}/metadata is {shown(sums)}: expected a whole number for each array")
  return formats.migrate(found, kind, source=f"checkpoint {path}")


def _as_spec(cls: type[T], path: pathlib.Path, found: Any) -> T:
  """The spec that an item describes. Raises Damaged if it does not describe one."""
  try:
    return convert.from_dict(cls, found)
  except UserError as error:
    raise Damaged(f"checkpoint {path} cannot be read: {error}") from None


def _field(path: pathlib.Path, found: dict[str, Any], key: str) -> Any:
  if key not in found:
    raise Damaged(f"checkpoint {path} cannot be read: it does not say its {key}")
  return found[key]
