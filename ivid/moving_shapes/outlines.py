"""Outlines of the 32 shapes of moving_shapes: polygons (circle and ring analytically) in units of the diameter, y downwards.

The diameter is the longer side of the upright bounding box. Polygons turn about the origin: the middle of the
circumscribed circle of triangle and star, the middle of the bounding box of all others.
"""

from __future__ import annotations

import math

import numpy as np

from ivid.moving_shapes.grammar import SHAPES

RING_INNER = 0.55  # inner radius over outer radius
STAR_INNER = 0.45
CROSS_ARM = 0.34

# Block capitals, ten units high, stroke about two: outline clockwise as seen, then holes.
_P_HOLE = ((2.1, 2), (5.2, 2), (5.8, 2.6), (5.8, 3.8), (5.2, 4.4), (2.1, 4.4))
_LETTERS = {
  "A": (((0, 10), (3.8, 0), (6.2, 0), (10, 10), (7.7, 10), (6.9, 7.9), (3.1, 7.9), (2.3, 10)), ((3.82, 6), (5, 2.9), (6.18, 6))),
  "B": (
    ((0, 0), (6, 0), (7.6, 1.6), (7.6, 3.9), (6.6, 4.9), (8, 6.3), (8, 8.3), (6.3, 10), (0, 10)),
    ((2.1, 2), (5, 2), (5.5, 2.5), (5.5, 3.5), (5, 4), (2.1, 4)),
    ((2.1, 6), (5.3, 6), (5.8, 6.5), (5.8, 7.5), (5.3, 8), (2.1, 8)),
  ),
  "C": (((2, 0), (6.2, 0), (8, 1.8), (8, 3.4), (5.8, 3.4), (5.8, 2.5), (5.2, 2), (2.8, 2), (2.2, 2.6), (2.2, 7.4), (2.8, 8),
         (5.2, 8), (5.8, 7.5), (5.8, 6.6), (8, 6.6), (8, 8.2), (6.2, 10), (2, 10), (0, 8), (0, 2)),),
  "D": (((0, 0), (5.2, 0), (8, 2.8), (8, 7.2), (5.2, 10), (0, 10)), ((2.1, 2), (4.4, 2), (5.8, 3.5), (5.8, 6.5), (4.4, 8), (2.1, 8))),
  "E": (((0, 0), (7.4, 0), (7.4, 2), (2.1, 2), (2.1, 4), (6.4, 4), (6.4, 6), (2.1, 6), (2.1, 8), (7.4, 8), (7.4, 10), (0, 10)),),
  "F": (((0, 0), (7.4, 0), (7.4, 2), (2.1, 2), (2.1, 4.2), (6.4, 4.2), (6.4, 6.2), (2.1, 6.2), (2.1, 10), (0, 10)),),
  "G": (((2, 0), (6.2, 0), (8, 1.8), (8, 3), (5.8, 3), (5.8, 2.5), (5.2, 2), (2.8, 2), (2.2, 2.6), (2.2, 7.4), (2.8, 8),
         (5.9, 8), (5.9, 6.4), (4.2, 6.4), (4.2, 4.6), (8, 4.6), (8, 10), (2, 10), (0, 8), (0, 2)),),
  "H": (((0, 0), (2.2, 0), (2.2, 4), (5.8, 4), (5.8, 0), (8, 0), (8, 10), (5.8, 10), (5.8, 6), (2.2, 6), (2.2, 10), (0, 10)),),
  "I": (((0, 0), (6, 0), (6, 2), (4.1, 2), (4.1, 8), (6, 8), (6, 10), (0, 10), (0, 8), (1.9, 8), (1.9, 2), (0, 2)),),
  "J": (((2.5, 0), (7.5, 0), (7.5, 8), (5.5, 10), (2, 10), (0, 8), (0, 6.2), (2.2, 6.2), (2.2, 7.4), (2.8, 8), (4.7, 8), (5.3, 7.4),
         (5.3, 2), (2.5, 2)),),
  "K": (((0, 0), (2.2, 0), (2.2, 4), (5.4, 0), (8.2, 0), (4.2, 5), (8.2, 10), (5.4, 10), (2.2, 6), (2.2, 10), (0, 10)),),
  "L": (((0, 0), (2.2, 0), (2.2, 8), (7, 8), (7, 10), (0, 10)),),
  "M": (((0, 0), (2.4, 0), (5, 4.4), (7.6, 0), (10, 0), (10, 10), (7.9, 10), (7.9, 3.6), (5, 8.5), (2.1, 3.6), (2.1, 10), (0, 10)),),
  "N": (((0, 0), (2.4, 0), (6.4, 6.2), (6.4, 0), (8.5, 0), (8.5, 10), (6.1, 10), (2.1, 3.8), (2.1, 10), (0, 10)),),
  "O": (
    ((2.2, 0), (6.3, 0), (8.5, 2.2), (8.5, 7.8), (6.3, 10), (2.2, 10), (0, 7.8), (0, 2.2)),
    ((3, 2), (5.5, 2), (6.4, 2.9), (6.4, 7.1), (5.5, 8), (3, 8), (2.1, 7.1), (2.1, 2.9)),
  ),
  "P": (((0, 0), (6, 0), (8, 2), (8, 4.4), (6, 6.4), (2.1, 6.4), (2.1, 10), (0, 10)), _P_HOLE),
  "Q": (
    ((2.2, 0), (6.3, 0), (8.5, 2.2), (8.5, 6.6), (7.8, 7.4), (9.5, 8.8), (8.3, 10), (6.5, 8.6), (6.1, 9), (2.2, 9), (0, 6.8), (0, 2.2)),
    ((3, 2), (5.5, 2), (6.4, 2.9), (6.4, 6.1), (5.4, 5.2), (4.2, 6.4), (4.9, 7), (3, 7), (2.1, 6.1), (2.1, 2.9)),
  ),
  "R": (((0, 0), (6, 0), (8, 2), (8, 4.4), (6.4, 6), (8.4, 10), (6, 10), (4.2, 6.4), (2.1, 6.4), (2.1, 10), (0, 10)), _P_HOLE),
  "S": (((1.8, 0), (6.2, 0), (8, 1.8), (8, 3.2), (5.8, 3.2), (5.8, 2.5), (5.3, 2), (2.7, 2), (2.2, 2.5), (2.2, 3.5), (2.7, 4), (6.2, 4),
         (8, 5.8), (8, 8.2), (6.2, 10), (1.8, 10), (0, 8.2), (0, 6.8), (2.2, 6.8), (2.2, 7.5), (2.7, 8), (5.3, 8), (5.8, 7.5), (5.8, 6.5),
         (5.3, 6), (1.8, 6), (0, 4.2), (0, 1.8)),),
  "T": (((0, 0), (8, 0), (8, 2.1), (5.1, 2.1), (5.1, 10), (2.9, 10), (2.9, 2.1), (0, 2.1)),),
  "U": (((0, 0), (2.2, 0), (2.2, 7.2), (3, 8), (5.2, 8), (6, 7.2), (6, 0), (8.2, 0), (8.2, 8), (6.2, 10), (2, 10), (0, 8)),),
  "V": (((0, 0), (2.4, 0), (4.5, 7), (6.6, 0), (9, 0), (5.7, 10), (3.3, 10)),),
  "W": (((0, 0), (2.1, 0), (2.9, 6), (4.1, 1.5), (5.9, 1.5), (7.1, 6), (7.9, 0), (10, 0), (8.4, 10), (6.3, 10), (5, 5), (3.7, 10),
         (1.6, 10)),),
  "X": (((0, 0), (2.6, 0), (4.5, 3.2), (6.4, 0), (9, 0), (6, 5), (9, 10), (6.4, 10), (4.5, 6.8), (2.6, 10), (0, 10), (3, 5)),),
  "Y": (((0, 0), (2.5, 0), (4.5, 3.8), (6.5, 0), (9, 0), (5.6, 6), (5.6, 10), (3.4, 10), (3.4, 6)),),
  "Z": (((0, 0), (8, 0), (8, 2), (2.9, 8), (8, 8), (8, 10), (0, 10), (0, 8), (5.1, 2), (0, 2)),),
}  # fmt: skip


def _regular(points: int, inner: float) -> np.ndarray:
  """A polygon with its first corner on top; `inner` < 1 puts a second set of corners between: a star."""
  steps = points if inner == 1.0 else 2 * points
  angle = 2 * np.pi * np.arange(steps) / steps
  radius = np.where((np.arange(steps) % 2 == 1) & (inner != 1.0), inner, 1.0)
  corners = np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=-1)
  return corners / np.max(np.ptp(corners, axis=0))


def _loops(name: str) -> tuple[np.ndarray, ...]:
  """Corners [n, 2] of the outline and of each hole; none for circle and ring."""
  a = CROSS_ARM / 2
  if name in ("circle", "ring"):
    return ()
  if name == "square":
    return (np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]),)
  if name == "triangle":
    return (_regular(3, 1.0),)
  if name == "star":
    return (_regular(5, STAR_INNER),)
  if name == "cross":
    corners = [(-a, -0.5), (a, -0.5), (a, -a), (0.5, -a), (0.5, a), (a, a), (a, 0.5), (-a, 0.5), (-a, a), (-0.5, a), (-0.5, -a), (-a, -a)]
    return (np.array(corners),)
  loops = [np.array(loop, float) for loop in _LETTERS[name.split()[1]]]
  middle = (loops[0].max(axis=0) + loops[0].min(axis=0)) / 2
  return tuple((loop - middle) / 10 for loop in loops)


def _edges(name: str) -> np.ndarray:
  """Edges [n, 4] (x0, y0, x1, y1), outline clockwise as seen and holes the other way, so that winding numbers are 0 and 1."""
  rows = []
  for place, loop in enumerate(_loops(name)):
    following = np.roll(loop, -1, axis=0)
    area = np.sum(loop[:, 0] * following[:, 1] - following[:, 0] * loop[:, 1])
    if (area > 0) != (place == 0):
      loop = loop[::-1]
      following = np.roll(loop, -1, axis=0)
    rows.append(np.concatenate([loop, following], axis=1))
  return np.concatenate(rows) if rows else np.zeros((0, 4))


_ALL = [_edges(name) for name in SHAPES]
NUM_EDGES = np.array([len(edges) for edges in _ALL])
# [32, E, 4], padded with edges of no length, which cover nothing.
EDGES = np.stack([np.pad(edges, ((0, NUM_EDGES.max() - len(edges)), (0, 0))) for edges in _ALL]).astype(np.float32)
IS_ROUND = NUM_EDGES == 0
# Radius of the hole of a round shape, in diameters.
INNER = np.array([0.5 * RING_INNER if name == "ring" else 0.0 for name in SHAPES], np.float32)
# [32, 4]: left, top, right, bottom of the upright shape.
BOX = np.array([(-0.5, -0.5, 0.5, 0.5) if r else (*e[:, :2].min(0), *e[:, :2].max(0)) for e, r in zip(_ALL, IS_ROUND, strict=True)])
# [32]: distance of the farthest corner from the origin.
REACH = np.array([0.5 if r else math.sqrt((e[:, :2] ** 2).sum(1).max()) for e, r in zip(_ALL, IS_ROUND, strict=True)])


def contains(shape: int, points: np.ndarray) -> np.ndarray:
  """Whether each of `points` [..., 2] lies in the shape (even-odd rule)."""
  x, y = points[..., 0], points[..., 1]
  if IS_ROUND[shape]:
    square = x * x + y * y
    return (square <= 0.25) & (square >= INNER[shape] ** 2)
  inside = np.zeros(x.shape, bool)
  for ax, ay, bx, by in _ALL[shape]:
    if ay != by:
      inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
  return inside
