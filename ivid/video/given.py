"""Frames that are given to a stage instead of sampled: which ones are given in training, and how they stay unchanged."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def given_patterns(frames: int) -> tuple[np.ndarray, np.ndarray]:
  """The patterns of given frames in training, [N, T] bool, and the share of each pattern, [N].

  There are four kinds, equally frequent as far as they leave something to learn: the first frame, the first half, both ends, and every k-th
  frame for each divisor k of `frames`. So the stage learns to continue a picture, to continue a clip, and to fill in between frames. Fewer
  than two frames have no patterns.
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
  """The frames given to each clip in training, [B, T] bool. A share of 1 - `share` of the clips gets none, and pictures get none.

  Args:
    draw: [B] uniform in [0, 1).
    is_video: [B] bool.
  """
  patterns, shares = given_patterns(frames)
  if not len(patterns) or not share:
    return jnp.zeros((*draw.shape, frames), bool)
  which = jnp.searchsorted(jnp.asarray(np.cumsum(shares)), draw / share)
  table = np.concatenate([patterns, np.zeros((1, frames), bool)])  # a draw beyond the last pattern gives no frames
  return jnp.asarray(table)[jnp.minimum(which, len(patterns))] & (is_video & (draw < share))[:, None]


def keep_given(x_hat: jax.Array, given: tuple[jax.Array, jax.Array] | None) -> jax.Array:
  """x_hat [B, T, H, W, 3] with the given frames (frames like x_hat, mask [B, T]) in their places, bit for bit."""
  if given is None:
    return x_hat
  frames, mask = given
  return jnp.where(mask[:, :, None, None, None], frames.astype(x_hat.dtype), x_hat)


def asked(given: tuple[jax.Array, jax.Array] | None) -> jax.Array | None:
  """[B, T] bool: the frames that the loss counts, which are those that are not given. None: it counts all frames."""
  return None if given is None else ~given[1]
