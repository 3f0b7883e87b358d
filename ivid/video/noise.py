"""Noise as a function of place: a tile gets the same noise as the whole clip has there, so the tile size only affects memory."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

BLOCK = (8, 8, 8)  # frames, rows and columns that share a key


def block_noise(
  key: jax.Array,
  *,
  shape: tuple[int, int, int, int],
  origin: tuple[int | jax.Array, int | jax.Array, int | jax.Array] = (0, 0, 0),
  block: tuple[int, int, int] = BLOCK,
  aligned: bool = False,
) -> jax.Array:
  """Standard normal float32 noise of `shape` [T, H, W, C], whose first value lies at `origin` (frame, row, column >= 0) of the clip.

  Absolute block (i, j, k) holds normal(fold_in(fold_in(fold_in(key, i), j), k)), whatever the sizes of clip and tile. The origin may be
  traced, so that one program serves every tile. It need not be a multiple of the block; if `aligned` says that it is, a traced origin does
  not have to allow for the worst offset. For a batch, vmap over keys.
  """
  channels = shape[3]
  spans = [_span(start, size, edge, aligned) for start, size, edge in zip(origin, shape[:3], block, strict=True)]
  t, h, w = (first + jnp.arange(count) for first, count, _ in spans)

  values = math.prod(block) * channels

  def draw(i, j, k):
    place = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, i), j), k)
    return jax.random.normal(place, (values,), jnp.float32)

  # One flat list of blocks, each drawn flat: XLA compiles it five times as fast as nested maps over small boxes.
  i, j, k = (index.ravel() for index in jnp.meshgrid(t, h, w, indexing="ij"))
  blocks = jax.vmap(draw)(i, j, k).reshape(t.size, h.size, w.size, *block, channels)
  counts = [count for _, count, _ in spans]
  covering = blocks.transpose(0, 3, 1, 4, 2, 5, 6).reshape(*(n * edge for n, edge in zip(counts, block, strict=True)), channels)
  return jax.lax.dynamic_slice(covering, (*(offset for _, _, offset in spans), 0), shape)


def _span(start: int | jax.Array, size: int, edge: int, aligned: bool) -> tuple[Any, int, Any]:
  """The first covering block, the number of covering blocks, and the offset of `start` in the first."""
  first, offset = start // edge, start % edge
  if aligned:
    return first, -(-size // edge), 0
  if isinstance(start, jax.Array):  # the count must not depend on the value, so it allows for the worst offset
    return first, (size + edge - 2) // edge + 1, offset
  assert start >= 0, f"origin {start} lies before the clip"
  return first, -(-(offset + size) // edge), offset  # pyright: ignore[reportReturnType]  a start of numbers has an offset of numbers
