"""Progress of a long run: a tqdm bar on a terminal, plain lines elsewhere; process 0 only."""

from __future__ import annotations

import sys
import time

import jax
from tqdm import tqdm

PLAIN_SECONDS = 30.0  # between two lines when there is no terminal


class Progress:
  """Context manager counting steps, or whatever `unit` names, up to `total`; `name`: of what is going on."""

  def __init__(self, *, total: int, initial: int = 0, unit: str = "step", name: str = ""):
    self._total, self._name = total, f"{name} " if name else ""
    self._active = jax.process_index() == 0
    self._terminal = sys.stderr.isatty()
    self._bar = tqdm(
      total=total, initial=initial, unit=unit, desc=name or None, dynamic_ncols=True, disable=not (self._active and self._terminal)
    )
    self._unit = unit
    self._first, self._step, self._text = initial, initial, ""
    self._started = self._printed = time.monotonic()

  def __enter__(self) -> Progress:
    return self

  def update(self, step: int) -> None:
    self._bar.update(step - self._step)
    self._step = step
    now = time.monotonic()
    if self._active and not self._terminal and (now - self._printed > PLAIN_SECONDS or step == self._total):
      self._printed = now
      left = (now - self._started) / max(step - self._first, 1) * (self._total - step)
      print(f"{self._name}{self._unit} {step}/{self._total} {self._text} {left:.0f} s left", file=sys.stderr, flush=True)

  def describe(self, **values: float) -> None:
    self._text = " ".join(f"{name}={value:.4g}" for name, value in values.items())
    self._bar.set_postfix_str(self._text)

  def __exit__(self, *_: object) -> None:
    self._bar.close()
