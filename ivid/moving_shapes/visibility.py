"""How much of one shape of moving_shapes another hides, estimated on a grid of points. Lengths are in any one unit."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ivid.moving_shapes import outlines as shapes

BITMAP = 96  # cells across [-0.75, 0.75] diameters
CELL = np.float32(1.5 / BITMAP)  # by how much a shape in a bitmap may be too large, in diameters
FIRST = 12  # poses that are examined before others are ruled out


def largest_hidden_share(shape: tuple[int, int], place: np.ndarray, size: np.ndarray, turn: np.ndarray, points: int) -> float:
  """Largest share of the first shape's points that the second covers, over T poses.

  Args:
    place, size, turn: origins [T, 2 shapes, 2], diameters [T, 2], clockwise turns [T, 2].
    points: along each side of the first shape's box.
  """
  turning = turn.any(axis=0)
  boxes = np.stack([_BOXES[shape[i], int(turning[i])] for i in (0, 1)])  # [2 shapes, 4]  # pyright: ignore[reportIndexIssue]  NumPy's stubs take an array for a scalar
  low, high = (place + boxes[:, ends] * size[..., None] for ends in (slice(2), slice(2, 4)))  # [T, 2 shapes, 2]
  low[:, 1] -= size[:, 1:] * CELL
  high[:, 1] += size[:, 1:] * CELL
  which = np.flatnonzero(((low[:, 0] < high[:, 1]) & (low[:, 1] < high[:, 0])).all(axis=1))
  if not len(which):
    return 0.0
  grid = _grid(shape[0], points)
  hidden = lambda poses: float(_hidden(shape, grid, place[poses], size[poses], turn[poses]).max())  # noqa: E731
  if turning[0] or len(which) <= FIRST:  # pyright: ignore[reportIndexIssue]  NumPy's stubs take an array for a scalar
    return hidden(which) / len(grid.inside)
  # At most the points in the second shape's box are hidden, so few poses can have the largest share.
  scale = points / (high[which, 0] - low[which, 0])
  begin, end = (((edge[which, 1] - low[which, 0]) * scale).astype(np.intp) for edge in (low, high))
  begin, end = np.minimum(np.maximum(begin - 1, 0), points), np.minimum(np.maximum(end + 2, 0), points)
  (x0, y0), (x1, y1), sums = begin.T, end.T, grid.sums
  most = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
  order = np.argsort(-most, kind="stable")
  found = hidden(which[order[:FIRST]])
  rest = order[FIRST:][most[order[FIRST:]] > found]
  return max(found, hidden(which[rest]) if len(rest) else 0.0) / len(grid.inside)


def _hidden(shape: tuple[int, int], grid: _Grid, place: np.ndarray, size: np.ndarray, turn: np.ndarray) -> np.ndarray:
  """How many points of the first shape the second covers, in each pose [T]."""
  if turn.any():
    world = place[:, None, 0] + _rotate(grid.inside * size[:, :1, None], turn[:, :1])  # [T, P, 2]
    local = _rotate(world - place[:, None, 1], -turn[:, 1:]) / size[:, 1:, None]
    return _lookup(shape[1], local[..., 0], local[..., 1]).sum(axis=1)
  # Columns and rows stay columns and rows.
  x, y = ((place[:, :1, n] + grid.axes[n] * size[:, :1] - place[:, 1:, n]) / size[:, 1:] for n in (0, 1))
  return _lookup(shape[1], x[:, None, :], y[:, :, None]).reshape(len(x), -1) @ grid.mask


def _rotate(points: np.ndarray, turn: np.ndarray) -> np.ndarray:
  """Points [T, P, 2] turned clockwise (y is downwards) by angles [T, 1]."""
  x, y, c, s = points[..., 0], points[..., 1], np.cos(turn), np.sin(turn)
  return np.stack([c * x - s * y, s * x + c * y], axis=-1)


class _Grid(NamedTuple):
  """A grid of points x points over the box of an upright shape of diameter 1.

  Attributes:
    axes: places of columns and of rows.
    inside: points in the shape [P, 2].
    mask: 1 for those, else 0 [points^2].
    sums: how many of those lie in the first y rows and x columns [points + 1, points + 1].
  """

  axes: tuple[np.ndarray, np.ndarray]
  inside: np.ndarray
  mask: np.ndarray
  sums: np.ndarray


@functools.cache
def _grid(shape: int, points: int) -> _Grid:
  left, top, right, bottom = shapes.BOX[shape]
  middle = (np.arange(points) + 0.5) / points
  axes = left + (right - left) * middle, top + (bottom - top) * middle
  grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
  inside = shapes.contains(shape, grid)
  sums = np.pad(inside.reshape(points, points).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
  return _Grid(tuple(axis.astype(np.float32) for axis in axes), grid[inside].astype(np.float32), inside.astype(np.float32), sums)


@functools.cache
def _bitmap(shape: int) -> np.ndarray:
  """The shape in cells, row after row, as 1 and 0, in a frame of 0."""
  middle = (np.arange(BITMAP) + 0.5) / BITMAP * 1.5 - 0.75
  inside = shapes.contains(shape, np.stack(np.meshgrid(middle, middle), axis=-1))
  return np.pad(inside, 1).astype(np.float32).reshape(-1)


def _lookup(shape: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """1 for points in the shape, else 0; x and y broadcast."""
  column, row = (np.minimum(np.maximum((axis + 0.75) * np.float32(BITMAP / 1.5), -1), BITMAP).astype(np.intp) + 1 for axis in (x, y))
  return np.take(_bitmap(shape), row * (BITMAP + 2) + column)


# Boxes that shapes never leave [32, upright or turning, 4]: left, top, right, bottom, in diameters from the origin.
_BOXES = np.stack([shapes.BOX, shapes.REACH[:, None] * (-1, -1, 1, 1)], axis=1).astype(np.float32)
