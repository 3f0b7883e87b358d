"""The one training loop: whatever the step function, it feeds, logs, checkpoints, evaluates and stops."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from ivid.spec.errors import UserError
from ivid.steps import TrainState
from ivid.train.checkpoint import Checkpointer
from ivid.train.metrics import MetricWriter
from ivid.train.phases import Phase
from ivid.train.progress import Progress

StepFn = Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Hook:
  """Something done every so many steps, such as evaluation or samples; returns scalars to log."""

  every: int
  call: Callable[[int, TrainState], Mapping[str, float]]


class NonFiniteLoss(UserError):
  """The loss or its gradient stopped being finite."""


@dataclasses.dataclass
class Loop:
  """One phase of a run.

  Attributes:
    total: updates of the whole run, for its progress.
    step_fn: jitted; state in, state out.
    batches: of this process, already on the devices; the first one belongs to the state's step.
    key: stream of the loss.
  """

  phase: Phase
  total: int
  step_fn: StepFn
  batches: Iterator[Any]
  key: jax.Array
  checkpointer: Checkpointer
  writer: MetricWriter
  hooks: Sequence[Hook] = ()

  def run(self, state: TrainState, *, stop: Callable[[], bool] = lambda: False) -> TrainState:
    """Trains to the end of the phase, or until `stop()`; saves at the end either way.

    Raises:
      NonFiniteLoss: names the first such step; the last good checkpoint stays.
    """
    spec, end = self.phase.train, self.phase.end
    step = first = int(state.step)
    pending: list[tuple[int, dict[str, jax.Array]]] = []
    started = time.monotonic()
    progress = Progress(total=self.total, initial=step, name=self.phase.name)
    with progress, _prefetched(self.batches) as batches:
      while step < end and not stop():
        state, metrics = self.step_fn(state, next(batches), self.key)
        step += 1
        pending.append((step, metrics))
        progress.update(step)
        if step % spec.log_every == 0 or step == end:
          rate = (step - first) / (time.monotonic() - started)
          self._log(pending, rate, progress)
          pending = []
        for hook in self.hooks:
          if hook.every and step % hook.every == 0:
            self.writer.write_scalars(step, hook.call(step, state))
        if step % spec.checkpoint.every == 0:
          self._check(pending)
          self._save(state, step)
      self._check(pending)
      if step > first:
        self._save(state, step)
    self.checkpointer.wait()
    return state

  def _save(self, state: TrainState, step: int) -> None:
    self.checkpointer.save(state, next_index=self.phase.index_at(step))

  def _check(self, pending: list[tuple[int, dict[str, jax.Array]]]) -> None:
    for step, metrics in pending:
      values = {name: float(value) for name, value in metrics.items()}
      if not all(math.isfinite(value) for value in values.values()):
        text = ", ".join(f"{name}={value}" for name, value in values.items())
        raise NonFiniteLoss(f"step {step} is not finite ({text}): stopped; the checkpoints before it are good")

  def _log(self, pending: list[tuple[int, dict[str, jax.Array]]], rate: float, progress: Progress) -> None:
    self._check(pending)
    names = pending[0][1]
    means = {f"train/{name}": sum(float(m[name]) for _, m in pending) / len(pending) for name in names}
    means["perf/steps_per_second"] = rate
    means["perf/clips_per_second"] = rate * self.phase.train.batch_size
    means["train/examples"] = self.phase.index_at(pending[-1][0])
    self.writer.write_scalars(pending[-1][0], means)
    progress.describe(loss=means.get("train/loss", math.nan), clips_per_s=means["perf/clips_per_second"])


class _prefetched:
  """Makes the next batch in a thread while the devices work on this one."""

  def __init__(self, batches: Iterator[Any]):
    self._batches = batches
    self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")

  def __enter__(self) -> _prefetched:
    self._next = self._pool.submit(next, self._batches)
    return self

  def __next__(self) -> Any:
    batch = self._next.result()
    self._next = self._pool.submit(next, self._batches)
    return batch

  def __exit__(self, *_: object) -> None:
    self._next.cancel()
    self._pool.shutdown(wait=True)
