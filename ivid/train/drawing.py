"""Pictures of moving_shapes drawn by the devices that train on them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ivid.data import frames
from ivid.programs import Program
from ivid.spec import batch as batches
from ivid.spec.view import View


def make_drawing(view: View, batch: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh) -> Program:
  """Program: frames [B, T, N] -> video [B, T, H, W, 3] of `batch` (Training.batch). Each row is drawn on the devices that train on it."""
  video = batch[batches.VIDEO]
  taken = jax.ShapeDtypeStruct((*video.shape[:2], frames.length()), np.float32, sharding=video.sharding)
  return Program("draw", functools.partial(frames.draw_frames, view=view), (taken,), out_shardings=video.sharding, mesh=mesh)


def drawn_first(step_fn: Callable[..., Any], drawing: Program) -> Callable[..., Any]:
  """step_fn(state, batch, key) for batches that have `frames` instead of `video`.

  It draws when the step is called, not when batches are fed, so that all processes run their programs in the same order.
  """
  draw = drawing.jit()

  def step(state: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> Any:
    rest = {name: array for name, array in batch.items() if name != batches.FRAMES}
    return step_fn(state, {**rest, batches.VIDEO: draw(batch[batches.FRAMES])}, key)

  return step
