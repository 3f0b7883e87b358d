"""Frames that a clip is given rather than asked for: which ones in training, and how they stay what they are."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def given_patterns(frames: int) -> tuple[np.ndarray, np.ndarray]:
  """Which of `frames` frames may be given in training: [N, T] bool, and the share of each pattern [N].

  Four kinds, equally often where they leave something to learn: the first frame; the first half; both ends; every k-th frame, k a divisor
  of `frames`. The clip goes on from a picture, goes on from a clip, or is filled in. No patterns for fewer than two frames.
  """
  place = np.arange(frames)
  kinds = [
    [place < 1],
    [place < frames // 2],
    [(place == 0) | (place == frames - 1)],
    [place % k == 0 for k in range(2, frames) if frames % k == 0],
  ]
  kinds = [[pattern for pattern in kind if 0 < pattern.sum() < frames] for kind in kinds]
  kinds = [kind for kind in kinds if kind]
  patterns = np.array(list(itertools.chain(*kinds)), bool).reshape(-1, frames)
  shares = np.array([1 / (len(kinds) * len(kind)) for kind in kinds for _ in kind], np.float32)
  return patterns, shares


def draw_given(*, draw: jax.Array, is_video: jax.Array, frames: int, share: float) -> jax.Array:
  """The frames given to each clip in training, [B, T] bool: none for a part 1 - `share` of them, and none of pictures.

  Args:
    draw: [B] uniform in [0, 1).
    is_video: [B] bool.
  """
  patterns, shares = given_patterns(frames)
  if not len(patterns) or not share:
    return jnp.zeros((*draw.shape, frames), bool)
  which = jnp.searchsorted(jnp.asarray(np.cumsum(shares)), draw / share)
  table = np.concatenate([patterns, np.zeros((1, frames), bool)])  # beyond the last: none
  return jnp.asarray(table)[jnp.minimum(which, len(patterns))] & (is_video & (draw < share))[:, None]


def keep_given(x_hat: jax.Array, given: tuple[jax.Array, jax.Array] | None) -> jax.Array:
  """x_hat [B, T, H, W, 3] with the given frames (frames like x_hat, mask [B, T]) in their places, bit for bit."""
  if given is None:
    return x_hat
  frames, mask = given
  return jnp.where(mask[:, :, None, None, None], frames.astype(x_hat.dtype), x_hat)


def asked(given: tuple[jax.Array, jax.Array] | None) -> jax.Array | None:
  """[B, T] bool, the frames that the loss counts: those that are not given; None: all."""
  return None if given is None else ~given[1]
