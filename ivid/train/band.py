"""The band that the norm of the gradient keeps to, and when it left it: of a run that diverges, what was saved afterwards is no good."""

from __future__ import annotations

import collections
import math
import statistics

WINDOW = 1000  # norms whose median is the band's middle
LEAST = 10  # norms before there is a band
FACTOR = 10.0  # times the median is the band's edge, as is the median over this
QUIET = 16  # norms in the band after which one that left it is back


class Band:
  """From the median over FACTOR to the median times FACTOR, of the last WINDOW norms that were not above it.

  A norm leaves it upwards alone: gradients that become smaller are what training is for. One that has left is back after QUIET norms
  between both edges.
  """

  def __init__(self):
    self.left: int | None = None  # first step of those whose norm left the band, while it is not back
    self._norms: collections.deque[float] = collections.deque(maxlen=WINDOW)
    self._inside = 0

  @property
  def edge(self) -> float:
    """The largest norm in the band; infinite while too few are known."""
    return FACTOR * statistics.median(self._norms) if len(self._norms) >= LEAST else math.inf

  def observe(self, step: int, norm: float) -> None:
    """The norm of a step, or its mean over several of which `step` is the first."""
    edge = self.edge
    if not norm <= edge:  # nor what is no number
      self.left, self._inside = self.left or step, 0
      return
    if self.left is None:
      self._norms.append(norm)
      return
    self._inside = self._inside + 1 if norm >= edge / FACTOR**2 else 0
    if self._inside >= QUIET:
      self.left, self._inside = None, 0
