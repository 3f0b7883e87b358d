"""What `ivid data prepare` writes, from text: 16x24x40."""

from __future__ import annotations

import re

from ivid.moving_shapes.scene import CLIP_SECONDS
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError


def clip_shape(size: str, fps: float | None) -> ClipShape:
  """The clip that --size and --fps describe; without a rate, one that lasts as long as moving_shapes."""
  match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", size)
  if not match:
    raise UserError(f"--size={size}: expected frames x height x width, such as 16x24x40")
  frames, height, width = map(int, match.groups())
  return ClipShape(frames, height, width, fps or frames / CLIP_SECONDS)
