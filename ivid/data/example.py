"""What a source returns for an index, and how the randomness of the data is split into streams."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from typing import Protocol

import numpy as np


class Split(enum.Enum):
  TRAIN = "train"
  EVAL = "eval"  # other scenes of the same world, with captions from the template
  HELD_OUT = "held_out"  # scenes whose objects training never shows (moving_shapes only)


# Every (split, frame of packed images) has its own stream, so splits share no scene.
STREAMS = {Split.TRAIN: 0, Split.EVAL: 1 << 16, Split.HELD_OUT: 2 << 16}
CHOICES = 1  # seeds the draws around a scene (crop, caption), separately from those of the scene


@dataclasses.dataclass(frozen=True)
class Example:
  """One row of a batch: uint8 [T, H, W, 3] (or what draws it, ivid.data.frames), and one caption, or one per independent image."""

  video: np.ndarray
  captions: tuple[str, ...]
  is_video: bool
  fps: float


def index_words(indices: Iterable[int]) -> np.ndarray:
  """uint32 [B, 2]: the lower and the upper word of each index, as batches have it."""
  return np.array([(index & 0xFFFFFFFF, index >> 32) for index in indices], np.uint32)


class Source(Protocol):
  def __getitem__(self, index: int) -> Example: ...
