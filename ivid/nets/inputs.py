"""What the network is given besides z_t and its noise level."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax


class Conditioning(flax.struct.PyTreeNode):
  """All that the denoiser is given besides z_t and its level.

  Attributes:
    text: [G, M, L, D] embeddings of captions (ivid.spec.batch.CaptionLayout); [B, 1, L, D] without pictures.
    text_mask: [G, M, L] bool; all False means no text.
    is_video: [B] bool; False bypasses all time mixing; None: no row is a video, and nothing of it is computed.
    fps: [B] float32.
    lowres: [B, T, H, W, C'] augmented and grown to the target's size, or None in the base.
    aug_logsnr: [B] level of that augmentation, or None in the base.
    w: [B] guidance weight, for distilled models; None otherwise.
    given: frames [B, T, H, W, 3] that are known where their mask [B, T] is True; None: none. With unet.given alone.
    negative: what the unconditional evaluation of guidance reads instead of no text, as [B, 1, L, D] and its mask [B, 1, L]; None: no text.
  """

  text: jax.Array
  text_mask: jax.Array
  is_video: jax.Array | None
  fps: jax.Array
  lowres: jax.Array | None = None
  aug_logsnr: jax.Array | None = None
  w: jax.Array | None = None
  given: tuple[jax.Array, jax.Array] | None = None
  negative: tuple[jax.Array, jax.Array] | None = None

  def network_inputs(self) -> dict[str, Any]:
    """Keyword arguments of VideoUNet, which one evaluation at a time reads: a negative text is another evaluation's."""
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "negative"}
