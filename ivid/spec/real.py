"""What clips are compared with, and how far."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ivid.spec.limits import MOST_SAMPLES
from ivid.spec.options import option
from ivid.spec.ranges import Range, check_ranges


@dataclasses.dataclass(frozen=True)
class RealClips:
  """Every field is a flag of that name."""

  real: str = option("moving_shapes", "What clips are compared with: moving_shapes, tfds:NAME, or a folder of clips")
  real_clips: Annotated[int, Range(0, MOST_SAMPLES)] = option(0, "How many real ones; 0: as many as are judged, of a folder all")
  frame_layers: str = option("", "Also the distance of single frames by these layers of I3D, such as Mixed_5c")
  features: str = option("", "Folder in which features are kept (default: ~/.cache/ivid/features, of shares OUT/features)")

  def __post_init__(self):
    check_ranges(self, "--")

  @property
  def layers(self) -> tuple[str, ...]:
    """Of frames, by name."""
    return tuple(name.strip() for name in self.frame_layers.split(",") if name.strip())
