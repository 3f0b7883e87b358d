"""Captions beside the rows they belong to: [G, M, ...] in the order of ivid.spec.batch.CaptionLayout."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ivid.spec.batch import CaptionLayout


class Captions(NamedTuple):
  """N captions per group: tokens [G, N, L, D], and which of them are valid, [G, N, L] bool."""

  tokens: jax.Array
  mask: jax.Array


def split(text: jax.Array, mask: jax.Array, *, batch_size: int, frames: int) -> tuple[Captions, Captions]:
  """Captions of pictures (`images` x `frames` per group) and of clips (`rows` - `images` per group); either may be empty."""
  layout = CaptionLayout.of(text.shape[:2], batch_size=batch_size, frames=frames)
  pictures = layout.images * frames
  return Captions(text[:, :pictures], mask[:, :pictures]), Captions(text[:, pictures:], mask[:, pictures:])


def per_caption(rows: jax.Array, text: jax.Array, *, frames: int) -> jax.Array:
  """Copies the value of each row, [B], to each of its captions, [G, M]."""
  layout = CaptionLayout.of(text.shape[:2], batch_size=rows.shape[0], frames=frames)
  rows = rows.reshape(-1, layout.rows)
  pictures, clips = jnp.split(rows, [layout.images], axis=1)
  return jnp.concatenate([jnp.repeat(pictures, frames, axis=1), clips], axis=1)


def per_frame(values: jax.Array, *, batch_size: int, frames: int) -> jax.Array:
  """Copies the value of each caption, [G, M, E], to the frames that it describes: [B, T, E], or [B, 1, E] if all rows have one caption."""
  layout = CaptionLayout.of(values.shape[:2], batch_size=batch_size, frames=frames)
  groups, _, features = values.shape
  if not layout.images:
    return values.reshape(batch_size, 1, features)
  pictures, clips = jnp.split(values, [layout.images * frames], axis=1)
  pictures = pictures.reshape(groups, layout.images, frames, features)
  clips = jnp.broadcast_to(clips[:, :, None], (groups, layout.rows - layout.images, frames, features))
  return jnp.concatenate([pictures, clips], axis=1).reshape(batch_size, frames, features)
