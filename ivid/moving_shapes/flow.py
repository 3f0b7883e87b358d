"""Exact optical flow of moving_shapes: where each pixel of a frame was in the frame before, from the objects' closed forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ivid.moving_shapes.draw import covers
from ivid.moving_shapes.scene import Scene, angle, diameter, num_objects, position

BACKGROUND, MIXED = 0, 255  # of `owners`, beside 1 and 2 for the objects
PURE = 1e-3  # share of a pixel that other objects may cover: a quarter of one level of 255


class Flow(NamedTuple):
  """The pixels that two consecutive frames have in common.

  Attributes:
    still: [H, W] bool, pixels that the background fills in both.
    rows, columns: [P] pixels that an object fills in the later frame, and whose four neighbours it fills at their place in the earlier one.
    from_rows, from_columns: [P] float32, that place in pixels: 0 is the middle of the first.
  """

  still: np.ndarray
  rows: np.ndarray
  columns: np.ndarray
  from_rows: np.ndarray
  from_columns: np.ndarray


def owners(scene: Scene, time: float, height: int, width: int) -> np.ndarray:
  """What fills each pixel at a time in seconds: uint8 [height, width] of BACKGROUND, 1 or 2 for an object, or MIXED if several share it."""
  found = np.full((height, width), BACKGROUND, np.uint8)
  for number, (cover,) in enumerate(covers(scene, times=[time], height=height, width=width), start=1):
    found[cover > PURE] = MIXED
    found[cover >= 1 - PURE] = number
  return found


def flows(scene: Scene, *, times: Sequence[float], height: int, width: int) -> Iterator[Flow]:
  """The flow to each frame from the one before, T - 1 of them, of a scene at `times` [T] seconds in a frame of height x width pixels."""
  before = owners(scene, times[0], height, width)
  for earlier, later in zip(times[:-1], times[1:], strict=True):
    after = owners(scene, later, height, width)
    places = [_followed(scene, i, (earlier, later), before, after) for i in range(num_objects(scene))]
    yield Flow((before == BACKGROUND) & (after == BACKGROUND), *map(np.concatenate, zip(*places, strict=True)))
    before = after


def _followed(scene: Scene, i: int, times: tuple[float, float], before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, ...]:
  """Pixels of object i in the later frame, and where they were in the earlier one."""
  height, width = after.shape
  scale = np.array([width / scene.aspect, height], np.float32)  # pixels per unit, of x and y
  rows, columns = np.nonzero(after == i + 1)
  place, size, turn = (of(scene, times)[:, i] for of in (position, diameter, angle))
  away = (np.stack([columns, rows], axis=-1) + 0.5) / scale - place[1]
  c, s = np.cos(turn[0] - turn[1]), np.sin(turn[0] - turn[1])
  back = np.stack([c * away[:, 0] - s * away[:, 1], s * away[:, 0] + c * away[:, 1]], axis=-1) * (size[0] / size[1])
  x, y = ((back + place[0]) * scale - 0.5).astype(np.float32).T
  left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
  seen = (left >= 0) & (top >= 0) & (left < width - 1) & (top < height - 1)
  for dy, dx in np.ndindex(2, 2):
    seen[seen] = before[top[seen] + dy, left[seen] + dx] == i + 1
  return rows[seen], columns[seen], y[seen], x[seen]
