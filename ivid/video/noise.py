"""Noise as a function of place: a tile gets the same noise as the whole clip has there, so the tile size only affects memory."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
  assert str(jax.random.key_impl(key)) == "threefry2x32", f"noise is drawn with Threefry, not with {jax.random.key_impl(key)}"
  channels = shape[3]
  spans = [_span(start, size, edge, aligned) for start, size, edge in zip(origin, shape[:3], block, strict=True)]
  t, h, w = (first + jnp.arange(count) for first, count, _ in spans)

  values = math.prod(block) * channels

  def draw(i, j, k):
    place = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, i), j), k)
    return _normal(place, values)

  # Blocks of the same frames are drawn as one flat list: XLA compiles it five times as fast as nested maps over small boxes. The loop over
  # frames keeps drawing apart from moving: merged, they would compute every value in an order that suits neither.
  j, k = (index.ravel() for index in jnp.meshgrid(h, w, indexing="ij"))
  blocks = jax.lax.map(lambda i: jax.vmap(lambda j, k: draw(i, j, k))(j, k), t).reshape(t.size, h.size, w.size, *block, channels)
  counts = [count for _, count, _ in spans]
  covering = blocks.transpose(0, 3, 1, 4, 2, 5, 6).reshape(*(n * edge for n, edge in zip(counts, block, strict=True)), channels)
  return jax.lax.dynamic_slice(covering, (*(offset for _, _, offset in spans), 0), shape)


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # of Threefry-2x32's rounds
_PARITY = np.uint32(0x1BD11BDA)


def _normal(key: jax.Array, count: int) -> jax.Array:
  """[count] float32, bit for bit as jax.random.normal(key, [count]).

  JAX's own Threefry is a loop on CPUs, which writes all bits to memory in every round. This one is a single pass over the values: 2.5 times
  as fast there, without a temporary of three times the clip's size.
  """
  first, second = jax.random.key_data(key)
  index = jax.lax.iota(jnp.uint32, count)
  high, low = _threefry(first, second, jnp.zeros_like(index), index)
  ones = jnp.float32(1.0).view(jnp.uint32)
  share = jax.lax.bitcast_convert_type(((high ^ low) >> 9) | ones, jnp.float32) - 1.0  # [0, 1) in steps of 2^-23
  least = np.nextafter(np.float32(-1.0), np.float32(0.0))
  uniform = jnp.maximum(least, share * (np.float32(1.0) - least) + least)
  return np.float32(math.sqrt(2.0)) * jax.lax.erf_inv(uniform)


def _threefry(key_0: jax.Array, key_1: jax.Array, x_0: jax.Array, x_1: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011, section 3.3). All are uint32."""
  keys = key_0, key_1, key_0 ^ key_1 ^ _PARITY
  x_0, x_1 = x_0 + keys[0], x_1 + keys[1]
  for group in range(5):
    for bits in _ROTATIONS[group % 2]:
      x_0 = x_0 + x_1
      x_1 = x_0 ^ ((x_1 << bits) | (x_1 >> (32 - bits)))
    x_0, x_1 = x_0 + keys[(group + 1) % 3], x_1 + keys[(group + 2) % 3] + np.uint32(group + 1)
  return x_0, x_1


def _span(start: int | jax.Array, size: int, edge: int, aligned: bool) -> tuple[Any, int, Any]:
  """The first covering block, the number of covering blocks, and the offset of `start` in the first."""
  first, offset = start // edge, start % edge
  if aligned:
    return first, -(-size // edge), 0
  if isinstance(start, jax.Array):  # the count must not depend on the value, so it allows for the worst offset
    return first, (size + edge - 2) // edge + 1, offset
  assert start >= 0, f"origin {start} lies before the clip"
  return first, -(-(offset + size) // edge), offset  # pyright: ignore[reportReturnType]  a start of numbers has an offset of numbers
