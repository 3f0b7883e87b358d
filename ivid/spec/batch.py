"""What a training batch holds: names, shapes and dtypes. Data makes it, Stage reads it, compilation needs nothing else."""

from __future__ import annotations

import dataclasses

from ivid.spec.stage import StageSpec

# One row per entry: the axes behind the batch axis are written in the Imagen Video letters.
VIDEO = "video"  # [B, T, H, W, 3] uint8, RGB; T independent pictures where is_video is False
TEXT = "text"  # [B, K, L, D] bfloat16 embeddings; K = 1 (one caption a clip) or T (one a frame)
TEXT_MASK = "text_mask"  # [B, K, L] bool, True on tokens
IS_VIDEO = "is_video"  # [B] bool
FPS = "fps"  # [B] float32, frames per second of `video`
INDEX = "index"  # [B] int32, the example's place in the data; the root of all its randomness


@dataclasses.dataclass(frozen=True)
class ArraySpec:
  shape: tuple[int, ...]
  dtype: str


def batch_spec(
  stage: StageSpec,
  *,
  batch_size: int,
  frames: int,
  height: int,
  width: int,
  max_tokens: int,
  captions_per_clip: int = 1,
) -> dict[str, ArraySpec]:
  """Contents of a batch of `batch_size` clips (or crops of them) of frames x height x width."""
  b, k = batch_size, captions_per_clip
  if k not in (1, frames):
    raise ValueError(f"captions_per_clip={k}: expected 1 or the number of frames, {frames}")
  return {
    VIDEO: ArraySpec((b, frames, height, width, 3), "uint8"),
    TEXT: ArraySpec((b, k, max_tokens, stage.unet.text_dim), "bfloat16"),
    TEXT_MASK: ArraySpec((b, k, max_tokens), "bool"),
    IS_VIDEO: ArraySpec((b,), "bool"),
    FPS: ArraySpec((b,), "float32"),
    INDEX: ArraySpec((b,), "int32"),
  }
