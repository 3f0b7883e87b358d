"""Curves over a training: figures of a stage's EMA weights, computed in a hook or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Weights(Protocol):
  """The part of an ivid.steps.TrainState that a curve reads. `ema`: parameters."""

  @property
  def ema(self) -> Any: ...


Curve = Callable[[int, Weights], dict[str, float]]  # (update, weights) -> figures by name
