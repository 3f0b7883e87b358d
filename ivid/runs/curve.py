"""What draws a curve over a training: figures of a stage's EMA weights, in a hook or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Weights(Protocol):
  """What a curve reads of a ivid.steps.TrainState; `ema`: parameters."""

  @property
  def ema(self) -> Any: ...


Curve = Callable[[int, Weights], dict[str, float]]  # of the update and its weights
