"""Progress of a cascade: bars over stages and steps on a terminal, plain lines elsewhere. Process 0 only."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import jax
from tqdm import tqdm

from ivid.spec.words import counted, duration

PLAIN_SECONDS = 30.0  # between two lines within a stage when there is no terminal


class CascadeProgress:
  """Two nested bars, of stages and of the running stage's evaluations (batches x steps x tiles). Context manager."""

  def __init__(self, work: Mapping[str, float], *, quiet: bool = False):
    """`work`: stages in the order in which they run, each with its share of the arithmetic in any unit, to estimate the time left."""
    self._work = dict(work)
    self._names = list(work)
    self._active = not quiet and jax.process_index() == 0
    self._terminal = self._active and sys.stderr.isatty()
    self._outer = self._bar(len(work), "stage", 0)
    self._inner = None
    self._name, self._steps, self._tiles, self._total, self._done = "", 0, 1, 1, 0
    self._began = self._started = self._first = self._printed = time.monotonic()

  def __enter__(self) -> CascadeProgress:
    return self

  def begin(self, name: str, *, batches: int, steps: int, tiles: int) -> None:
    """Called when a stage starts."""
    self._name, self._steps, self._tiles, self._total, self._done = name, steps, tiles, batches * steps * tiles, 0
    self._started = self._printed = time.monotonic()
    self._outer.set_description_str(name)
    self._inner = self._bar(self._total, "step" if tiles == 1 else "tile", 1)

  def step(self, *_: int) -> None:
    """Called when one step of one batch, or of one of its tiles, is done."""
    self._done += 1
    if self._done == 1:
      self._first = time.monotonic()
    if self._terminal:
      self._inner.set_description_str(self._place())
      self._outer.set_postfix_str(self._left())
      self._inner.update(1)
    now = time.monotonic()
    if self._active and not self._terminal and now - self._printed > PLAIN_SECONDS:
      self._printed = now
      if self._done == 1 < self._total:  # its time says little, because the program was compiled in it
        return self._print(self._place())
      left = (now - self._first) / max(self._done - 1, 1) * (self._total - self._done)
      self._print(f"{self._place()}, {duration(left)} left, {self._left()} in all")

  def end(self) -> None:
    """Called when the stage is finished."""
    self._inner.close()
    self._outer.update(1)
    if self._active and not self._terminal:
      tiles = f" of {self._tiles} tiles" if self._tiles > 1 else ""
      self._print(f"{counted(self._total // self._tiles, 'step')}{tiles} in {time.monotonic() - self._started:.1f} s")

  def __exit__(self, *_: object) -> None:
    if self._inner is not None:
      self._inner.close()
    self._outer.close()

  def where(self) -> str:
    """The running stage and step, in words."""
    return f"stage {self._name}, {self._place()}" if self._name else "before the first stage"

  def _place(self) -> str:
    """The last finished step, and its tile."""
    step = -(-self._done // self._tiles)
    text = f"step {step}/{self._total // self._tiles}"
    return text if self._tiles == 1 else f"{text}, tile {(self._done - 1) % self._tiles + 1}/{self._tiles}"

  def _left(self) -> str:
    """The time left for all stages, estimated from the work done so far."""
    before = sum(self._work[name] for name in self._names[: self._names.index(self._name)])
    done = before + self._work[self._name] * self._done / self._total
    left = (time.monotonic() - self._began) * (sum(self._work.values()) / done - 1)
    return f"about {duration(left)} left"

  def _bar(self, total: int, unit: str, position: int) -> tqdm:
    return tqdm(total=total, unit=unit, position=position, leave=position == 0, dynamic_ncols=True, disable=not self._terminal)

  def _print(self, text: str) -> None:
    place = self._names.index(self._name) + 1
    print(f"stage {self._name} ({place}/{len(self._names)}): {text}", file=sys.stderr, flush=True)
