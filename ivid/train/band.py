"""The band in which the norm of the gradient stays, and when it left it. What a diverging run saves after that is useless."""

from __future__ import annotations

import collections
import math
import statistics

WINDOW = 1000  # number of norms whose median is the middle of the band
LEAST = 10  # number of norms before there is a band
FACTOR = 10.0  # the edges of the band are the median times this and the median divided by this
QUIET = 16  # number of norms inside the band after which the norm counts as back


class Band:
  """From median / FACTOR to median * FACTOR, with the median of the last WINDOW norms that were not above the band.

  A norm can only leave the band upwards, since gradients are meant to become smaller. One that has left is back after QUIET norms
  between both edges.
  """

  def __init__(self):
    self.left: int | None = None  # the step at which the norm left the band, until it is back
    self._norms: collections.deque[float] = collections.deque(maxlen=WINDOW)
    self._inside = 0

  @property
  def edge(self) -> float:
    """The largest norm in the band; infinite as long as too few norms are known."""
    return FACTOR * statistics.median(self._norms) if len(self._norms) >= LEAST else math.inf

  def observe(self, step: int, norm: float) -> None:
    """Notes the norm of a step, or its mean over several steps that begin with `step`."""
    edge = self.edge
    if not norm <= edge:  # this is also true for NaN
      self.left, self._inside = self.left or step, 0
      return
    if self.left is None:
      self._norms.append(norm)
      return
    self._inside = self._inside + 1 if norm >= edge / FACTOR**2 else 0
    if self._inside >= QUIET:
      self.left, self._inside = None, 0
