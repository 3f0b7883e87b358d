"""The network that retrieval is measured with, and how it is trained."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ivid.spec.clip import ClipShape
from ivid.spec.errors import UsageError, UserError
from ivid.spec.limits import LARGEST_SEED, MOST_CLIPS, MOST_TOKENS, MOST_UPDATES
from ivid.spec.options import option
from ivid.spec.ranges import Range, check_ranges

MOST_CHANNELS = 4096
MOST_GROUPS = 1_000_000

Channels = Annotated[int, Range(1, MOST_CHANNELS)]


@dataclasses.dataclass(frozen=True)
class RetrievalSpec:
  """Two encoders with one space: of clips and of captions' embeddings.

  Attributes:
    clip: what the network reads; other clips are brought to it.
    frames_per_patch, patch: frames and pixels, per side, whose colours are one position's first features.
    channels: of the patches, and after each halving of height and width.
    head_dim: of the attention over all positions; it divides the last of `channels`.
    maps: things whose way over time is followed.
    queries: learned places that each encoder looks at.
    hidden: features between what was looked at and the common space.
    dim: of the common space.
    text_dim, max_tokens: of the embeddings.
    text: folder of the frozen text encoder, or the name of a cascade that ships.
    text_encoder: its hash.
    data: what the network has learned from.
  """

  clip: ClipShape = ClipShape(16, 24, 40, 3.0)
  frames_per_patch: Annotated[int, Range(1, 64)] = 4
  patch: Annotated[int, Range(1, 64)] = 2
  channels: tuple[Channels, ...] = (64, 128, 256)
  head_dim: Channels = 32
  maps: Channels = 16
  queries: Channels = 8
  hidden: Channels = 256
  dim: Channels = 256
  text_dim: Channels = 256
  max_tokens: Annotated[int, Range(1, MOST_TOKENS)] = 128
  text: str = "nano"
  text_encoder: str = ""
  data: str = "moving_shapes"

  def __post_init__(self):
    check_ranges(self, "retrieval ")
    if not self.channels or self.channels[-1] % self.head_dim:
      raise UserError(f"retrieval channels={self.channels}: expected some, the last a multiple of head_dim={self.head_dim}")
    if self.clip.frames % self.frames_per_patch:
      raise UserError(f"retrieval clip {self.clip.size}: expected frames that are a multiple of frames_per_patch={self.frames_per_patch}")
    if self.clip.height % self.patch or self.clip.width % self.patch:
      raise UserError(f"retrieval clip {self.clip.size}: expected a height and width that are multiples of patch={self.patch}")


@dataclasses.dataclass(frozen=True)
class RetrievalTraining:
  """Every field is a flag of that name."""

  workdir: str = option("", "Folder of the run; WORKDIR/network is the network alone")
  text: str = option("nano", "Folder of the frozen text encoder, or the name of a cascade that ships")
  data: str = option("moving_shapes", "Captioned clips: moving_shapes, or tfds:NAME")
  groups: Annotated[int, Range(1, MOST_GROUPS)] = option(500, "Groups of clips; those of moving_shapes differ in one attribute")
  scenes: Annotated[int, Range(1, MOST_GROUPS)] = option(3, "Times that each group of moving_shapes is drawn")
  steps: Annotated[int, Range(1, MOST_UPDATES)] = option(800, "Updates in all")
  batch_size: Annotated[int, Range(2, MOST_CLIPS)] = option(32, "Clips per update")
  learning_rate: Annotated[float, Range(0, 1, above=True)] = option(2e-3, "Peak learning rate of Muon")
  seed: Annotated[int, Range(0, LARGEST_SEED)] = option(0, "Of parameters, clips and captions")

  def __post_init__(self):
    check_ranges(self, "--")

  def check(self) -> None:
    """UsageError without a folder."""
    if not self.workdir:
      raise UsageError("--workdir is missing: expected the folder of the run, such as runs/retrieval")
