"""What the network is given besides z_t and its noise level."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax


class Conditioning(flax.struct.PyTreeNode):
  """Everything that the denoiser reads besides z_t and its level.

  Attributes:
    text: [G, M, L, D] embeddings of captions (ivid.spec.batch.CaptionLayout); [B, 1, L, D] without pictures.
    text_mask: [G, M, L] bool; all False means no text.
    is_video: [B] bool; False bypasses all time mixing. None: no row is a video, and no time mixing is computed.
    fps: [B] float32.
    lowres: [B, T, H, W, C'], augmented and enlarged to the target's size; None in the base.
    aug_logsnr: [B] level of that augmentation; None in the base.
    w: [B] guidance weight, for distilled models; None otherwise.
    given: frames [B, T, H, W, 3], known where their mask [B, T] is True; None: no frame is known. Only networks with unet.given read it.
    negative: text [B, 1, L, D] and its mask [B, 1, L] for the unconditional evaluation of guidance; None: that evaluation reads no text.
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
    """Keyword arguments of VideoUNet for one evaluation. A negative text is not among them: it is the text of another evaluation."""
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "negative"}
