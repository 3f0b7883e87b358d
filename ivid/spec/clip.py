"""Clip geometry: frames x height x width at a frame rate."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ClipShape:
  """Size of a clip as the paper writes it, frames x height x width, and its frames per second."""

  frames: int
  height: int
  width: int
  fps: float

  def __post_init__(self):
    for name in ("frames", "height", "width", "fps"):
      if getattr(self, name) <= 0:
        raise ValueError(f"clip {name}={getattr(self, name)}: expected a positive number")

  @property
  def seconds(self) -> float:
    return self.frames / self.fps

  @property
  def array(self) -> tuple[int, int, int, int]:
    """[T, H, W, C] of one RGB clip."""
    return (self.frames, self.height, self.width, 3)

  def __str__(self) -> str:
    return f"{self.frames}x{self.height}x{self.width}@{self.fps:g}fps"
