"""Random keys of examples, derived from their positions in the data."""

from __future__ import annotations

import jax


def example_keys(key: jax.Array, index: jax.Array) -> jax.Array:
  """The key of each example [B].

  Args:
    key: of a stream.
    index: uint32 [B, 2], the lower and the upper word of each position. The upper word is only folded in if it is not 0.
  """

  def one(words: jax.Array) -> jax.Array:
    low = jax.random.fold_in(key, words[0])
    return jax.lax.select(words[1] > 0, jax.random.fold_in(low, words[1]), low)

  return jax.vmap(one)(index)
