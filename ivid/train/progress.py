"""Progress of a long run: a tqdm bar on a terminal, plain lines elsewhere; process 0 only."""

from __future__ import annotations

import sys
import time

import jax
from tqdm import tqdm

from ivid.spec.words import duration

PLAIN_SECONDS = 30.0  # between two lines when there is no terminal


class Progress:
  """Context manager that counts steps, or whatever `unit` names, up to `total`. `name`: what is going on.

  The time of the first update is not counted in estimates, because programs are compiled in it.
  """

  def __init__(self, *, total: int, initial: int = 0, unit: str = "step", name: str = ""):
    self._total, self._name = total, f"{name} " if name else ""
    self._active = jax.process_index() == 0
    self._terminal = sys.stderr.isatty()
    self._bar = tqdm(
      total=total, initial=initial, unit=unit, desc=name or None, dynamic_ncols=True, disable=not (self._active and self._terminal)
    )
    self._unit = unit
    self._first, self._step, self._text = None, initial, ""
    self._started = self._printed = time.monotonic()

  def __enter__(self) -> Progress:
    return self

  def update(self, step: int) -> None:
    self._bar.update(step - self._step)
    self._step = step
    now = time.monotonic()
    if self._first is None:
      self._first, self._started = step, now
    if self._active and not self._terminal and (now - self._printed > PLAIN_SECONDS or step == self._total):
      self._printed = now
      words = [f"{self._name}{self._unit} {step}/{self._total}", self._text]
      if step > self._first:
        words.append(f"{duration((now - self._started) / (step - self._first) * (self._total - step))} left")
      print(" ".join(filter(None, words)), file=sys.stderr, flush=True)

  def describe(self, **values: float) -> None:
    self._text = " ".join(f"{name}={value:.4g}" for name, value in values.items())
    self._bar.set_postfix_str(self._text)

  def __exit__(self, *_: object) -> None:
    self._bar.close()
