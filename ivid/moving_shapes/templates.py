"""Fits the world's shapes, blurred by pixels, to an object cut out of its frames: coverages, errors and Gauss-Newton steps."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ivid.moving_shapes import outlines as shapes
from ivid.moving_shapes.grammar import SHAPES

CELLS = 144  # of a template, across
SPAN = 1.5  # diameters that a template covers
PIXEL = 1 / 12  # variance of a pixel's box
# Diameters, in pixels, for which templates are blurred.
SMALLEST, RATIO, LEVELS = 2.0, 1.25, 16
SUBCELLS = 3
RIDGE = 0.05  # keeps a frame without evidence in its place
LARGEST_TURN = 0.3  # radians, of a step
NUM_SHAPES = len(SHAPES)


@dataclasses.dataclass(frozen=True)
class Patch:
  """An object cut out of its frames, in windows of one size.

  Attributes:
    x, y: [T, 1, w] and [T, h, 1] pixel centres, in pixels.
    cover: [T, h, w].
    weight: [T, h, w] 0 where another object may hide this one.
    time: [T] in shares of the clip.
  """

  x: np.ndarray
  y: np.ndarray
  cover: np.ndarray
  weight: np.ndarray
  time: np.ndarray

  @property
  def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Area and centroid x, y [T], in pixels."""
    mass = np.maximum(self.cover.sum(axis=(1, 2)), 1.0)
    x, y = ((self.cover * place).sum(axis=(1, 2)) / mass for place in (self.x, self.y))
    return mass, x, y

  def __getitem__(self, frames) -> Patch:
    return Patch(*(getattr(self, field.name)[frames] for field in dataclasses.fields(self)))


class Pose(NamedTuple):
  """Where candidates are in each frame, [K, T] each: place and diameter in pixels, clockwise turn in radians (None: upright)."""

  x: np.ndarray
  y: np.ndarray
  diameter: np.ndarray
  turn: np.ndarray | None

  def pick(self, index) -> Pose:
    return Pose(self.x[index], self.y[index], self.diameter[index], None if self.turn is None else self.turn[index])


@functools.cache
def _bitmaps() -> np.ndarray:
  """Templates [32, CELLS, CELLS] without blur."""
  n = CELLS * SUBCELLS
  middle = ((np.arange(n) + 0.5) / n - 0.5) * SPAN
  points = np.stack(np.meshgrid(middle, middle), axis=-1)
  inside = np.stack([shapes.contains(s, points) for s in range(NUM_SHAPES)]).astype(np.float32)
  return inside.reshape(NUM_SHAPES, CELLS, SUBCELLS, CELLS, SUBCELLS).mean(axis=(2, 4))


@functools.cache
def moments() -> tuple[np.ndarray, np.ndarray]:
  """Area [32] in diameters^2 and centroid [32, 2] in diameters of every shape."""
  area = _bitmaps().mean(axis=(1, 2)) * SPAN**2
  middle = ((np.arange(CELLS) + 0.5) / CELLS - 0.5) * SPAN
  weights = _bitmaps() / _bitmaps().sum(axis=(1, 2), keepdims=True)
  return area, np.stack([(weights * middle).sum(axis=(1, 2)), (weights * middle[:, None]).sum(axis=(1, 2))], axis=-1)


@functools.cache
def _bank(blur: float) -> np.ndarray:
  """Templates as pixels see them, flat [LEVELS, 32, CELLS, CELLS]: level k is for a diameter of SMALLEST x RATIO^k pixels."""
  sigmas = np.sqrt(PIXEL + blur**2) / (SMALLEST * RATIO ** np.arange(LEVELS)) * (CELLS / SPAN)
  blurred = [ndimage.gaussian_filter(_bitmaps(), (0, sigma, sigma), mode="constant", truncate=3.0) for sigma in sigmas]
  return np.stack(blurred).ravel()


@functools.cache
def _slopes(blur: float) -> np.ndarray:
  """Derivatives of the templates along x and y, per cell: flat like the bank [LEVELS * 32 * CELLS * CELLS, 2]."""
  bank = _bank(blur).reshape(LEVELS, NUM_SHAPES, CELLS, CELLS)
  return np.stack([np.gradient(bank, axis=-1), np.gradient(bank, axis=-2)], axis=-1).reshape(-1, 2)


def _cells(patch: Patch, shape: np.ndarray, pose: Pose):
  """Places of the patch's pixels in the templates, in cells from the middle, and their indices in the bank; see `coverage`."""
  x, y, diameter = (np.asarray(a, np.float32)[..., None, None] for a in pose[:3])
  scale = (CELLS / SPAN) / diameter
  dx, dy = (patch.x - x) * scale, (patch.y - y) * scale  # [K, T, 1, w], [K, T, h, 1]
  if pose.turn is not None:
    c, s = (f(pose.turn).astype(np.float32)[..., None, None] for f in (np.cos, np.sin))
    dx, dy = c * dx + s * dy, c * dy - s * dx
  level = np.clip(np.rint(np.log(diameter / SMALLEST) * (1 / np.log(RATIO))), 0, LEVELS - 1).astype(np.int32)
  first = (level * NUM_SHAPES + shape[:, None, None, None].astype(np.int32)) * CELLS**2
  row, column = (np.minimum(np.maximum(d + CELLS / 2, 0), CELLS - 1).astype(np.int32) for d in (dy, dx))
  return dx, dy, (first + row * CELLS) + column


def coverage(patch: Patch, shape: np.ndarray, pose: Pose, blur: float) -> np.ndarray:
  """Coverage [K, T, h, w] of the patch's pixels by K shapes [K]."""
  return _bank(blur).take(_cells(patch, shape, pose)[2])


def error(patch: Patch, drawn: np.ndarray) -> np.ndarray:
  """[K] weighted squared error of [K, T, h, w] over the patch's own weighted square."""
  difference = drawn - patch.cover
  square = np.einsum("kthw,kthw,thw->k", difference, difference, patch.weight)
  return square / max(float((patch.weight * patch.cover**2).sum()), 1e-6)


def guess(patch: Patch, shape: np.ndarray, turns: np.ndarray | None = None) -> Pose:
  """Poses of shapes [K] that give the patch's area and centroid, turning `turns` [K] times in a clip; None: upright."""
  area, centre = moments()
  mass, cx, cy = patch.moments
  diameter = np.sqrt(mass / area[shape][:, None])
  ox, oy = centre[shape].T[..., None]
  if turns is None:
    return Pose(cx - diameter * ox, cy - diameter * oy, diameter, None)
  angle = 2 * np.pi * turns[:, None] * patch.time
  c, s = np.cos(angle), np.sin(angle)
  return Pose(cx - diameter * (c * ox - s * oy), cy - diameter * (s * ox + c * oy), diameter, angle)


def refine(patch: Patch, shape: np.ndarray, pose: Pose, blur: float, steps: int, limit: float, turning: bool = False) -> Pose:
  """Gauss-Newton on place and diameter of every frame, and on the turn if `turning`. `limit`: largest diameter, pixels."""
  x, y, d, turn = pose
  T = len(patch.cover)
  weight = patch.weight.reshape(T, 1, -1)
  for _ in range(steps):
    dx, dy, cells = _cells(patch, shape, Pose(x, y, d, turn))
    left = ((patch.cover - _bank(blur).take(cells)) * patch.weight).reshape(*d.shape, -1, 1)
    along = _slopes(blur).take(cells, axis=0)
    # A larger shape is sampled nearer to its middle, a turned one at a place turned back.
    parts = [-along[..., 0], -along[..., 1], -(dx * along[..., 0] + dy * along[..., 1])]
    units = [np.full_like(d, CELLS / SPAN) / d] * 2 + [np.ones_like(d) / d]
    if turning:
      parts.append(dy * along[..., 0] - dx * along[..., 1])
      units.append(np.ones_like(d))
    slope = np.stack(parts, axis=2).reshape(*d.shape, len(parts), -1)
    normal = (slope * weight) @ np.swapaxes(slope, -1, -2)
    per_unit = np.stack(units, axis=-1)
    normal = normal * per_unit[..., :, None] * per_unit[..., None, :] + RIDGE * np.eye(len(parts), dtype=np.float32)
    step = np.linalg.solve(normal, (slope @ left) * per_unit[..., None])[..., 0]
    if turn is not None:  # from the shape's axes to the frame's
      c, s = np.cos(turn), np.sin(turn)
      step[..., 0], step[..., 1] = c * step[..., 0] - s * step[..., 1], s * step[..., 0] + c * step[..., 1]
    bound = 0.15 * d[..., None] + 0.5
    moved = np.clip(step[..., :3], -bound, bound)
    x, y, d = x + moved[..., 0], y + moved[..., 1], np.clip(d + moved[..., 2], SMALLEST, limit)
    if turning:
      turn = turn + np.clip(step[..., 3], -LARGEST_TURN, LARGEST_TURN)
  return Pose(x, y, d, turn)
