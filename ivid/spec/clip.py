"""Clip geometry: frames x height x width at a frame rate."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from ivid.spec.limits import MOST_FPS, MOST_FRAMES, MOST_SIDE
from ivid.spec.ranges import Range, check_ranges

REFERENCE_SIZE = 64  # side of the pictures for which the unshifted schedule is made (simple diffusion, 2301.11093)


@dataclasses.dataclass(frozen=True)
class ClipShape:
  """Size of a clip as the paper writes it, frames x height x width, and its frames per second."""

  frames: Annotated[int, Range(1, MOST_FRAMES)]
  height: Annotated[int, Range(1, MOST_SIDE)]
  width: Annotated[int, Range(1, MOST_SIDE)]
  fps: Annotated[float, Range(0, MOST_FPS, above=True)]

  def __post_init__(self):
    check_ranges(self, "clip ")

  @property
  def seconds(self) -> float:
    return self.frames / self.fps

  @property
  def array(self) -> tuple[int, int, int, int]:
    """[T, H, W, C] of one RGB clip."""
    return (self.frames, self.height, self.width, 3)

  @property
  def size(self) -> str:
    """Frames x height x width."""
    return f"{self.frames}x{self.height}x{self.width}"

  def __str__(self) -> str:
    return f"{self.size}@{self.fps:g}fps"


def resolution_logsnr_shift(output: ClipShape) -> float:
  """2 log(64 / sqrt(height width)), the shift for a stage with this output: larger pictures average noise away and need more of it.

  Simple diffusion (2301.11093); a value for `diffusion.logsnr_shift`.
  """
  return 2.0 * math.log(REFERENCE_SIZE / math.sqrt(output.height * output.width))
