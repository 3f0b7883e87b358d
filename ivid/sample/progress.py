"""Progress of a cascade: bars over stages and steps on a terminal, a plain line a stage elsewhere. Process 0 only."""

from __future__ import annotations

import sys
import time

import jax
from tqdm import tqdm

PLAIN_SECONDS = 30.0  # between two lines within a stage when there is no terminal


class CascadeProgress:
  """Two nested bars, of stages and of the running stage's steps. Context manager."""

  def __init__(self, stages: int, *, quiet: bool = False):
    self._stages = stages
    self._done = 0
    self._active = not quiet and jax.process_index() == 0
    self._terminal = self._active and sys.stderr.isatty()
    self._outer = self._bar(stages, "stage", 0)
    self._inner = None
    self._name, self._total, self._steps = "", 0, 0
    self._started = self._printed = time.monotonic()

  def __enter__(self) -> CascadeProgress:
    return self

  def begin(self, name: str, steps: int) -> None:
    """A stage starts, of `steps` steps over all its batches."""
    self._name, self._total, self._steps = name, steps, 0
    self._started = self._printed = time.monotonic()
    self._outer.set_description_str(name)
    self._inner = self._bar(steps, "step", 1)

  def step(self, *_: int) -> None:
    """One step of one batch is done."""
    self._steps += 1
    self._inner.update(1)
    now = time.monotonic()
    if self._active and not self._terminal and now - self._printed > PLAIN_SECONDS:
      self._printed = now
      left = (now - self._started) / self._steps * (self._total - self._steps)
      self._print(f"step {self._steps}/{self._total}, {left:.0f} s left")

  def end(self) -> None:
    """The stage is finished."""
    self._inner.close()
    self._done += 1
    self._outer.update(1)
    if self._active and not self._terminal:
      self._print(f"{self._total} steps in {time.monotonic() - self._started:.1f} s")

  def __exit__(self, *_: object) -> None:
    if self._inner is not None:
      self._inner.close()
    self._outer.close()

  def _bar(self, total: int, unit: str, position: int) -> tqdm:
    return tqdm(total=total, unit=unit, position=position, leave=position == 0, dynamic_ncols=True, disable=not self._terminal)

  def _print(self, text: str) -> None:
    place = self._done + (self._steps < self._total)
    print(f"stage {self._name} ({min(place, self._stages)}/{self._stages}): {text}", file=sys.stderr, flush=True)
