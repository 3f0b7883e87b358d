"""Frames of moving_shapes as numbers: the scene of a frame, its time, and the corner of its crop.

A batch of clips and packed images is thus one small array [B, T, N]. Its frames are independent, and all are drawn in the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ivid.moving_shapes.draw import draw
from ivid.moving_shapes.scene import Scene, make_scene
from ivid.spec.view import View


def pack(scene: Scene, times: np.ndarray, corner: Sequence[int]) -> np.ndarray:
  """Frames [T, N] float32 of a scene at `times` [T] seconds, seen from row and column `corner` on. Whole numbers stay exact."""
  numbers = np.concatenate([*(np.ravel(field) for field in scene), (0.0, *corner)], dtype=np.float32)
  frames = np.tile(numbers, (len(times), 1))
  frames[:, -3] = times
  return frames


def unpack(frame: Any) -> tuple[Scene, Any, tuple[Any, Any]]:
  """Scene, time [] and corner of a frame [N], by numpy or inside jit."""
  fields, start = [], 0
  for shape, dtype in _layout():
    size = int(np.prod(shape))
    fields.append(frame[start : start + size].reshape(shape).astype(dtype))
    start += size
  time, top, left = frame[start], frame[start + 1], frame[start + 2]
  return Scene(*fields), time, (top, left)


def length() -> int:
  """N."""
  return pack(make_scene(0, 0), np.zeros(1), (0, 0)).shape[-1]


@functools.cache
def _layout() -> tuple[tuple[tuple[int, ...], np.dtype], ...]:
  """Shape and dtype of the fields of a scene."""
  return tuple((np.shape(field), np.asarray(field).dtype) for field in make_scene(0, 0))


def draw_frames(frames: Any, *, view: View) -> Any:
  """uint8 [B, T, H, W, 3] of frames [B, T, N], inside jit; the same pixels as NumPy draws, up to rounding."""
  import jax  # the processes that make frames do not need it
  import jax.numpy as jnp

  def one(frame: jax.Array) -> jax.Array:
    scene, time, corner = unpack(frame)
    crop = (*corner, view.height, view.width)
    picture = draw(scene, times=time[None], height=view.clip.height, width=view.clip.width, crop=crop, xp=jnp)[0]
    return jnp.floor(picture + 0.5).astype(jnp.uint8)  # on some CPUs, XLA's own conversion rounds where NumPy's truncates

  return jax.vmap(jax.vmap(one))(frames)
