"""Orbax checkpoints: params, ema, optimizer, data index and spec are named items of one step.

We use CheckpointManager and not `orbax.checkpoint.v1`. Up to Orbax 0.12, the latter is a name for `orbax.checkpoint.experimental.v1`: its
calls were renamed between 0.11 and 0.12, its JSON items lie in another file than in existing runs, and by default it skips a save while
another is in progress. Orbax 1.0 makes it the only API, hence the upper bound in setup.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import math
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping

from ivid.data.mixture import Drawn
from ivid.media.places import is_remote, move
from ivid.parallel.distributed import all_agree, is_first, wait_for_all
from ivid.spec import convert, formats
from ivid.spec.compare import Spec, stage_difference
from ivid.spec.errors import UserError, first_line
from ivid.spec.files import as_spec
from ivid.spec.limits import LARGEST_SEED
from ivid.spec.ranges import Range, check_ranges
from ivid.spec.run import CheckpointSpec
from ivid.steps import TrainState
from ivid.weights import ema
from ivid.weights.ema import AVERAGES, EMA, FOLDER, META, SNAPSHOTS, SUMS, WIDTHS, Damaged
from ivid.weights.kept import finished_steps, shown_steps
from ivid.weights.sums import device_sums, named_leaves

PARAMS, OPTIMIZER, DATA = "params", "optimizer", "data"  # items of a checkpoint, besides those that other modules read (ivid.weights.ema)
DAMAGED = "damaged"  # folder in a work folder for checkpoints that could not be read
UNFINISHED = "*.orbax-checkpoint-tmp*"  # what an unfinished save leaves behind
FULL_WORDS = ("No space left on device", "Disk quota exceeded")  # found in errors of TensorStore, which have no errno


@dataclasses.dataclass(frozen=True)
class Seen:
  """What a run has seen so far.

  Attributes:
    next_index: index of the first example it has not seen.
    flops: of all updates so far; None if the run began before this was counted.
    drawn: clips and images so far; None: as many as the run's phases say, as in every run whose batches never changed.
  """

  next_index: Annotated[int, Range(0, LARGEST_SEED)]
  flops: Annotated[float, Range(0, math.inf, below=True)] | None = None
  drawn: Drawn | None = None

  def __post_init__(self):
    check_ranges(self, "")
    if self.drawn is not None and min(dataclasses.astuple(self.drawn)) < 0:
      raise UserError(f"drawn={dataclasses.asdict(self.drawn)}: expected 0 or more of each")


@dataclasses.dataclass
class _Protected:
  """A preservation policy of Orbax that keeps one checkpoint, whatever the other policies decide."""

  step: int | None = None

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    del context
    return [info.step == self.step for info in checkpoints]


class Checkpointer:
  """Checkpoints of one run, in `workdir`/checkpoints/<step>/."""

  def __init__(self, workdir: pathlib.Path, spec: CheckpointSpec, stage: Spec, *, widths: Sequence[float] = (), optimizer: str = ""):
    """Opens the folder. Nothing in it changes until `begin` or a save.

    Args:
      stage: what the weights belong to.
      widths: relative widths of the state's power-function averages; their snapshots are kept in `workdir`/snapshots/<step>/.
      optimizer: name of the optimizer's kind, for errors.
    """
    ema.quiet_orbax()
    self._stage, self._widths, self._optimizer = stage, tuple(widths), optimizer
    self._folder = (workdir if is_remote(workdir) else pathlib.Path(workdir).resolve()) / FOLDER
    self._protected, self._damaged = _Protected(), list[str]()
    kept = [keeping.LatestN(spec.max_to_keep), self._protected]
    if spec.keep_period:
      kept.append(keeping.EveryNSteps(spec.keep_period))
    options: dict[str, Any] = dict(cleanup_tmp_directories=True)  # removes what killed processes left
    policy = keeping.AnyPreservationPolicy(kept)
    self._manager = ocp.CheckpointManager(self._folder, options=ocp.CheckpointManagerOptions(preservation_policy=policy, **options))
    # This manager has its own barriers, because both managers may write the same step at once, each in a thread.
    options |= dict(multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=SNAPSHOTS))
    path = self._folder.with_name(SNAPSHOTS)
    self._snapshots = ocp.CheckpointManager(path, options=ocp.CheckpointManagerOptions(**options)) if widths else None

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def path(self, step: int) -> pathlib.Path:
    """Folder of a checkpoint."""
    return self._folder / str(step)

  def save(self, state: TrainState, seen: Seen) -> None:
    """Saves the state, what it has seen, and sums over the bits of its arrays. All processes call this.

    Raises:
      UserError: this or the previous save could not be written, for example because the disk is full.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    trees = _trees(state)
    meta = {"step": step, "stage": convert.to_dict(self._stage), "optimizer": self._optimizer, SUMS: device_sums(trees)}
    items: dict[str, Any] = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
    told = {name: value for name, value in dataclasses.asdict(seen).items() if name != "drawn" or value is not None}
    items[DATA] = ocp.args.JsonSave(formats.stamped(told))
    items[META] = ocp.args.JsonSave(formats.stamped(meta))
    if self._widths:
      items[WIDTHS] = ocp.args.JsonSave(formats.stamped({"widths": list(self._widths)}))
    with self._written():
      self._manager.save(step, args=ocp.args.Composite(**items))

  def snapshot(self, state: TrainState) -> None:
    """Keeps the power-function averages of this step, if the run has any, for good. All processes call this. Raises as `save`."""
    step = int(state.step)
    if self._snapshots is None or step in self._snapshots.all_steps():
      return
    averages = list(state.averages)
    widths = {"widths": list(self._widths), SUMS: device_sums({AVERAGES: averages})}
    items: dict[str, Any] = {AVERAGES: ocp.args.StandardSave(averages), WIDTHS: ocp.args.JsonSave(formats.stamped(widths))}
    with self._written():
      self._snapshots.save(step, args=ocp.args.Composite(**items))

  def protect(self, step: int | None) -> pathlib.Path | None:
    """Protects the last checkpoint up to `step`, and no other, until this is called again. Returns its folder, if there is one."""
    before = [] if step is None else [saved for saved in self._manager.all_steps() if saved <= step]
    self._protected.step = max(before, default=None)
    return None if self._protected.step is None else self.path(self._protected.step)

  def restore(self, abstract: TrainState, step: int = 0) -> tuple[TrainState, Seen]:
    """The newest intact state, read directly into the shardings of `abstract`, and what it has seen. All processes call this.

    Args:
      step: of the only checkpoint to read; 0: the newest that can be read.

    Raises:
      UserError: the checkpoint has another stage, optimizer or other power-function averages, or none can be read.
    """
    if step:
      try:
        return self._read(step, abstract)
      except Damaged as error:
        others = shown_steps([other for other in sorted(self._manager.all_steps()) if other != step]) or "none"
        raise UserError(f"--resume_step={step}: {error}; other steps that are kept: {others}") from None
    damaged: list[Damaged] = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        state, seen = self._read(step, abstract)
      except Damaged as error:
        damaged.append(error)
        continue
      self._damaged = [str(error) for error in damaged]
      return state, seen
    raise UserError(f"{damaged[0]}; no other one can be: move {self._folder} away to begin anew")

  def begin(self, step: int) -> None:
    """Prepares the folder for a run that is now certain to continue from `step`. All processes call this."""
    self._manager.reload()  # some checkpoints may have been set aside
    newer = [self.path(later) for later in sorted(self._manager.all_steps(), reverse=True) if later > step]
    for path, error in zip(newer, self._damaged, strict=True) if is_first() else ():
      aside = self._folder.with_name(DAMAGED)
      aside.mkdir(exist_ok=True)
      names = itertools.chain([path.name], (f"{path.name}-{n}" for n in itertools.count(2)))
      place = next(aside / name for name in names if not (aside / name).exists())
      move(path, place)
      ema.say(f"{error}; going back to step {step}, and it is put aside as {place}")
    wait_for_all("begin")
    for manager in self._managers():
      manager.reload()
    for later in [] if self._snapshots is None else self._snapshots.all_steps():
      if later > step:  # a snapshot of updates that are now undone
        self._snapshots.delete(later)

  def _read(self, step: int, abstract: TrainState) -> tuple[TrainState, Seen]:
    """Reads one checkpoint. Raises as `restore`, and Damaged in every process if the checkpoint is damaged in one."""
    path, error, state = self.path(step), None, None
    try:
      meta, data = ema.read_meta(path), ema.read_data(path, DATA)
      seen = _seen(path, data)
      self._check_alike(path, meta, abstract)
      trees = {name: ema.read_arrays(path, name, tree) for name, tree in _trees(abstract).items()}
    except Damaged as found:
      error = found
    if all_agree(error is None):
      averages = tuple(trees.get(AVERAGES, ()))
      array = jax.device_put(np.asarray(step, np.int32), abstract.step.sharding)
      state = TrainState(step=array, params=trees[PARAMS], ema=trees[EMA], opt_state=trees[OPTIMIZER], averages=averages)
      sums = meta.get(SUMS)
      ema.check_sums(path, {} if sums is None else device_sums(trees), sums)  # the same result in all processes
      return state, seen
    raise error or Damaged(f"checkpoint {path} cannot be read by another process")

  def _check_alike(self, path: pathlib.Path, meta: dict[str, Any], abstract: TrainState) -> None:
    """Raises UserError if the checkpoint is intact but belongs to another run."""
    difference = stage_difference(ema.read_spec(path, type(self._stage)), self._stage)
    if difference:
      raise UserError(f"checkpoint {path} is of another stage: {difference}")
    found = tuple(ema.read_widths(path))
    if found != self._widths:
      raise UserError(f"train.ema_widths={self._widths}: checkpoint {path} was trained with {found}: expected the same, or a new --workdir")
    have = ema.read_shapes(path, OPTIMIZER)
    want = {name: leaf.shape for name, leaf in named_leaves({OPTIMIZER: abstract.opt_state}).items()}
    other = next((name for name in sorted({**have, **want}) if have.get(name) != want.get(name)), None)
    if other:
      trained = meta.get("optimizer") or _kind(have)
      same = f" with other settings: {other} has shape {have.get(other)}, now {want.get(other)}" if trained == self._optimizer else ""
      raise UserError(
        f"train.optimizer.kind={self._optimizer}: checkpoint {path} was trained with {trained}{same}: expected the same, "
        f"or a new --workdir and train.init_from={path}"
      )

  def wait(self) -> None:
    """Blocks until everything that was saved is on disk. Raises as `save`."""
    with self._written():
      for manager in self._managers():
        manager.wait_until_finished()

  def __enter__(self) -> Checkpointer:
    return self

  def __exit__(self, kind: object, *_: object) -> None:
    with contextlib.suppress(*() if kind is None else (Exception,)):  # what ends the run is said already
      self.close()

  def close(self) -> None:
    """Waits like `wait`, and releases the folder."""
    with self._written():
      for manager in self._managers():
        manager.close()

  @contextlib.contextmanager
  def _written(self) -> Iterator[None]:
    """Raises a one-line UserError if a disk is full, or it or a bucket cannot be written. Removes unfinished saves, which take up room."""
    try:
      yield
    except Exception as error:  # Orbax raises whatever its threads raised, and TensorStore raises ValueError
      reason = first_line(error) if is_remote(self._folder) else _disk_error(error)
      if reason is None:
        raise
      if is_first() and not is_remote(self._folder):
        for path in [*self._folder.glob(UNFINISHED), *self._folder.with_name(SNAPSHOTS).glob(UNFINISHED)]:
          shutil.rmtree(path, ignore_errors=True)
      last = max(finished_steps(self._folder.parent), default=None)
      whole = "no checkpoint is there yet" if last is None else f"the last checkpoint is of step {last}"
      raise UserError(f"cannot write a checkpoint in {self._folder}: {reason}; {whole}, and the same command goes on from there") from None

  def _managers(self) -> list[ocp.CheckpointManager]:
    return [manager for manager in (self._manager, self._snapshots) if manager is not None]


def _trees(state: TrainState) -> dict[str, Any]:
  """The arrays of a checkpoint, per item."""
  averages = {AVERAGES: list(state.averages)} if state.averages else {}
  return {PARAMS: state.params, EMA: state.ema, OPTIMIZER: state.opt_state, **averages}


def _seen(path: pathlib.Path, data: dict[str, Any]) -> Seen:
  try:
    return as_spec(Seen, data, source=f"its {DATA}/metadata")
  except UserError as error:
    raise Damaged(f"checkpoint {path} cannot be read: {error}") from None


def _kind(names: Any) -> str:
  """The kind of optimizer whose state has these names, for a checkpoint that does not state it."""
  parts = {part for name in names for part in name.split("/")}
  return "muon" if "muon" in parts else "adafactor" if "v_row" in parts else "adam" if "nu" in parts else "another one"


def _disk_error(error: BaseException | None) -> str | None:
  """The system's error about a disk that cannot be written, found anywhere among the causes of an error; None if there is none."""
  seen = 0
  while error is not None and seen < 20:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EFBIG):
      return error.strerror
    said = next((words for words in FULL_WORDS if words in str(error)), None)
    if said:
      return said
    error, seen = error.__cause__ or error.__context__, seen + 1
  return None
