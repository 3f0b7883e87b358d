"""The only training loop. Whatever the step function is, the loop feeds, logs, checkpoints, evaluates and stops."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from ivid.data.mixture import Drawn
from ivid.parallel.memory import memory_metrics
from ivid.prefetch import Prefetched
from ivid.spec.errors import UserError
from ivid.steps import TrainState
from ivid.train.band import Band
from ivid.train.checkpoint import Checkpointer, Seen
from ivid.train.compiling import compile_clock
from ivid.train.metrics import MetricWriter
from ivid.train.phases import Phase
from ivid.train.profiling import Profiler
from ivid.train.progress import Progress

GRAD_NORM = "grad_norm"  # key in a step's metrics
SHOWN = 3  # steps before a non-finite one whose loss and norm are reported

StepFn = Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Hook:
  """Something that is done every so many steps, such as evaluation or samples; it returns scalars to log."""

  every: int
  call: Callable[[int, TrainState], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Cost:
  """The arithmetic of updates.

  Attributes:
    flops: of one update (ivid.train.run.model_flops).
    before: of all updates before this loop; None if unknown.
    peak: FLOP/s of all devices together; None if unknown.
  """

  flops: float
  before: float | None = 0.0
  peak: float | None = None


class NonFiniteLoss(UserError):
  """The loss or its gradient is no longer finite."""


@dataclasses.dataclass
class Loop:
  """One phase of a run.

  Attributes:
    total: updates of the whole run, for the progress bar.
    step_fn: jitted; state in, state out.
    batches: already on the devices of this process; the first batch belongs to the state's step.
    key: of the loss stream.
    rate: learning rate by update, for the log.
    cost: for the log; None: the log has no arithmetic.
    band: of the gradient's norm, including what this phase has logged before.
    drawn: clips and images up to a step, for the checkpoints of a run whose batches have changed (Seen.drawn).
    profiler: shared by all phases; None: no update is traced.
  """

  phase: Phase
  total: int
  step_fn: StepFn
  batches: Iterator[Any]
  key: jax.Array
  checkpointer: Checkpointer
  writer: MetricWriter
  hooks: Sequence[Hook] = ()
  rate: Callable[[int], Any] | None = None
  cost: Cost | None = None
  band: Band = dataclasses.field(default_factory=Band)
  drawn: Callable[[int], Drawn] | None = None
  profiler: Profiler | None = None

  def run(self, state: TrainState, *, stop: Callable[[], bool] = lambda: False) -> TrainState:
    """Trains to the end of the phase, or until `stop()`; saves at the end either way.

    Raises:
      NonFiniteLoss: names the first such step, and the last checkpoint before the gradient's norm left its band, which is kept.
    """
    spec, end = self.phase.train, self.phase.end
    step = self._first = self._checked = int(state.step)
    self._recent: collections.deque[tuple[int, dict[str, float]]] = collections.deque(maxlen=SHOWN)
    self._protect()
    pending: list[tuple[int, dict[str, jax.Array]]] = []
    clock = _Clock()
    progress = Progress(total=self.total, initial=step, name=self.phase.name)
    with progress, Prefetched(self.batches, "batches") as batches:
      while step < end and not stop():
        if self.profiler and self.profiler.begins(step):
          with clock.paused(state.step):
            self.profiler.begin()
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
          state, metrics = self.step_fn(state, next(batches), self.key)
        step += 1
        pending.append((step, metrics))
        progress.update(step)
        if step == self._first + 1:
          clock.start_after(metrics)  # the first update includes waiting for the compiler
        else:
          clock.steps += 1
        if self.profiler and self.profiler.ends(step):
          with clock.paused(metrics):
            self.profiler.close()
        if step % spec.log_every == 0 or step == end:
          self._log(pending, clock, progress)
          pending = []
        for hook in self.hooks:
          if hook.every and step % hook.every == 0:
            with clock.paused(metrics):
              scalars = hook.call(step, state)
            self.writer.write_scalars(step, scalars)
        if spec.ema_widths and step % spec.ema_snapshot_every == 0:
          self._check(pending)
          self.checkpointer.snapshot(state)
        if step % spec.checkpoint.every == 0:
          self._check(pending)
          self._save(state, step)
      self._check(pending)
      if step > self._first:
        self._save(state, step)
      if spec.ema_widths and step == self.total:
        self.checkpointer.snapshot(state)
    self.checkpointer.wait()
    return state

  def _save(self, state: TrainState, step: int) -> None:
    self.writer.flush()  # a run that resumes from here does not log these steps again
    drawn = None if self.drawn is None else self.drawn(step)
    self.checkpointer.save(state, Seen(self.phase.index_at(step), self.flops_at(step), drawn))

  def flops_at(self, step: int) -> float | None:
    """Floating-point operations of all updates up to `step`; None if those before the loop are unknown."""
    if self.cost is None or self.cost.before is None:
      return None
    return self.cost.before + (step - self._first) * self.cost.flops

  def _check(self, pending: list[tuple[int, dict[str, jax.Array]]]) -> None:
    """Waits for the pending steps and checks them. The last checkpoint before the gradient's norm left its band is kept."""
    for step, metrics in pending:
      if step <= self._checked:
        continue
      values = {name: float(value) for name, value in metrics.items()}
      if not all(math.isfinite(value) for value in values.values()):
        raise NonFiniteLoss(self._not_finite(step, values))
      if GRAD_NORM in values:
        self.band.observe(step, values[GRAD_NORM])
      self._recent.append((step, values))
      self._checked = step
    self._protect()

  def _protect(self) -> pathlib.Path | None:
    return self.checkpointer.protect(None if self.band.left is None else self.band.left - 1)

  def _not_finite(self, step: int, values: dict[str, float]) -> str:
    """One line with what is known about a run that cannot continue."""
    told = [f"step {at} {', '.join(f'{name}={value:.4g}' for name, value in found.items())}" for at, found in self._recent]
    left = self.band.left
    kept = self._protect() if left else self.checkpointer.protect(step - 1)
    where = f"the last checkpoint from before is {kept}" if kept else "no checkpoint is from before"
    if left:
      course = f"the gradient's norm left its band (up to {self.band.edge:.4g}) in step {left}: {where}"
      course += f"; to go on from it: ivid train --resume_step={kept.name}, or move later ones away" if kept else ""
    else:
      course = f"the gradient's norm had not left its band before: {where}"
    before = f"; before it {'; '.join(told)}" if told else ""
    return f"step {step} is not finite ({', '.join(f'{name}={value}' for name, value in values.items())}): stopped{before}; {course}"

  def _log(self, pending: list[tuple[int, dict[str, jax.Array]]], clock: _Clock, progress: Progress) -> None:
    self._check(pending)  # this waits for the devices, so that the clock has no work in flight
    step, names = pending[-1][0], pending[0][1]
    row = {f"train/{name}": sum(float(m[name]) for _, m in pending) / len(pending) for name in names}
    row["train/examples"] = self.phase.index_at(step)
    if self.rate is not None:
      row["train/learning_rate"] = float(self.rate(step - 1))
    flops, speed = self.flops_at(step), clock.lap()
    if flops is not None:
      row["train/flops"] = flops
    if speed is not None:
      row |= {"perf/steps_per_second": speed, "perf/clips_per_second": speed * self.phase.train.batch_size}
      if self.cost is not None and self.cost.peak:
        row["perf/mfu"] = speed * self.cost.flops / self.cost.peak
    row |= {"perf/compile_seconds": compile_clock().seconds, **memory_metrics()}
    self.writer.write_scalars(step, row)
    progress.describe(loss=row.get("train/loss", math.nan), **({} if speed is None else dict(clips_per_s=row["perf/clips_per_second"])))


class _Clock:
  """Seconds of training since the last line of the log. Saving counts; compilation and hooks do not."""

  def __init__(self):
    self.steps = 0
    self._since = self._left_out = 0.0

  def start_after(self, result: Any) -> None:
    jax.block_until_ready(result)
    self._since, self._left_out = time.monotonic(), 0.0

  @contextlib.contextmanager
  def paused(self, result: Any) -> Iterator[None]:
    """Pauses the clock while something else happens, from the moment when `result` is ready."""
    jax.block_until_ready(result)
    started = time.monotonic()
    yield
    self._left_out += time.monotonic() - started

  def lap(self) -> float | None:
    """Updates per second since the last call; None if there was none except the first update."""
    now = time.monotonic()
    speed = self.steps / max(now - self._since - self._left_out, 1e-9) if self.steps else None
    self.steps, self._since, self._left_out = 0, now, 0.0
    return speed
