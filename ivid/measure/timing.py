"""Times calls in turn, for the benches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

MATRIX = 2048  # side of the matrices whose product serves as the reference for speed


def interleaved(calls: dict[str, Callable[[], Any]], *, repeats: int) -> dict[str, float]:
  """Median seconds of each call. They run in turn, so that a change of the machine's speed affects all of them."""
  for call in calls.values():
    call()  # compiles
  times: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(repeats):
    for name, call in calls.items():
      start = time.perf_counter()
      call()
      times[name].append(time.perf_counter() - start)
  return {name: statistics.median(values) for name, values in times.items()}
