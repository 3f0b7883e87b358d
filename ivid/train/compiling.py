"""The seconds that this process has spent making programs, as opposed to training."""

from __future__ import annotations

import functools
import threading
from typing import Any

from jax import monitoring

# What JAX times: Python to jaxpr, jaxpr to StableHLO, and XLA or reading the program from its cache.
EVENTS = frozenset(f"/jax/core/compile/{name}_duration" for name in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile"))


class CompileClock:
  """Adds up spans of time. Overlaps count once, for example if a function is traced inside another or in another thread."""

  def __init__(self):
    self._spans: list[tuple[float, float]] = []  # disjoint, in order
    self._lock = threading.Lock()

  @property
  def seconds(self) -> float:
    with self._lock:
      return sum(end - start for start, end in self._spans)

  def add(self, start: float, end: float) -> None:
    with self._lock:
      later = []
      while self._spans and self._spans[-1][1] >= start:
        span = self._spans.pop()
        if span[0] > end:
          later.append(span)
        else:
          start, end = min(start, span[0]), max(end, span[1])
      self._spans += [(start, end), *reversed(later)]


@functools.cache
def compile_clock() -> CompileClock:
  """The clock of this process, which runs from the first call."""
  clock = CompileClock()

  def listen(event: str, start_time: float, end_time: float, **_: Any) -> None:
    if event in EVENTS:
      clock.add(start_time, end_time)

  monitoring.register_event_time_span_listener(listen)
  return clock
