"""What a training batch holds: names, shapes and dtypes. Data makes it, Stage reads it, compilation needs nothing else."""

from __future__ import annotations

import dataclasses

from ivid.spec.errors import UserError
from ivid.spec.stage import StageSpec

# One row per entry: the axes behind the batch axis are written in the Imagen Video letters.
VIDEO = "video"  # [B, T, H, W, 3] uint8, RGB; T independent pictures where is_video is False
# [B, T, N] float32, what draws `video` (ivid.data.frames): in its place until the devices have drawn it.
FRAMES = "frames"
TEXT = "text"  # [G, M, L, D] bfloat16 embeddings, see CaptionLayout; [B, 1, L, D] without packed images
TEXT_MASK = "text_mask"  # [G, M, L] bool, True on tokens
IS_VIDEO = "is_video"  # [B] bool
FPS = "fps"  # [B] float32, frames per second of `video`
INDEX = "index"  # [B, 2] uint32, the lower and the upper word of the example's place in the data; the root of all its randomness


@dataclasses.dataclass(frozen=True)
class ArraySpec:
  shape: tuple[int, ...]
  dtype: str


@dataclasses.dataclass(frozen=True)
class CaptionLayout:
  """Which captions belong to which rows of a batch: G groups of `rows` rows, the first `images` of which hold independent pictures.

  A group's captions are one for each frame of its pictures, row by row, then one for each clip: M = images T + rows - images. A clip's
  caption is so embedded, kept and projected once, not once a frame.
  """

  rows: int = 1
  images: int = 0

  def captions(self, frames: int) -> int:
    """M."""
    return self.images * frames + self.rows - self.images

  @classmethod
  def of(cls, captions: tuple[int, ...], *, batch_size: int, frames: int) -> CaptionLayout:
    """The layout of text [G, M, ...] for `batch_size` rows of `frames` frames; pictures of one frame count as clips of one.

    Raises:
      UserError: there is none.
    """
    groups, count = captions
    layout = cls(batch_size // groups, (count - batch_size // groups) // max(1, frames - 1))
    if layout.rows * groups != batch_size or not 0 <= layout.images <= layout.rows or layout.captions(frames) != count:
      raise UserError(
        f"text of {groups} x {count} captions for {batch_size} rows of {frames} frames: expected {batch_size} x 1, or x {frames}"
      )
    return layout


def holds_pictures(frames: int) -> bool:
  """Whether a batch of so many frames holds no videos, so that no time mixing is computed: one frame is a picture."""
  return frames == 1


def batch_spec(
  stage: StageSpec,
  *,
  batch_size: int,
  frames: int,
  height: int,
  width: int,
  max_tokens: int,
  captions: CaptionLayout = CaptionLayout(),
) -> dict[str, ArraySpec]:
  """Contents of a batch of `batch_size` clips (or crops of them) of frames x height x width."""
  b, g, m = batch_size, batch_size // captions.rows, captions.captions(frames)
  return {
    VIDEO: ArraySpec((b, frames, height, width, 3), "uint8"),
    TEXT: ArraySpec((g, m, max_tokens, stage.unet.text_dim), "bfloat16"),
    TEXT_MASK: ArraySpec((g, m, max_tokens), "bool"),
    IS_VIDEO: ArraySpec((b,), "bool"),
    FPS: ArraySpec((b,), "float32"),
    INDEX: ArraySpec((b, 2), "uint32"),
  }
