"""Named streams of random keys: derived from (seed, name), never carried."""

from __future__ import annotations

import hashlib

import jax


def stream(seed: int, name: str) -> jax.Array:
  """The key of a stream; what it feeds folds in a step or an example index."""
  digest = hashlib.sha256(name.encode()).digest()
  return jax.random.fold_in(jax.random.key(seed), int.from_bytes(digest[:4], "big"))
