"""Drawing moving_shapes: exact area coverage of every pixel, in numpy and (the same functions) inside jit.

A polygon's coverage of a pixel is an integral along its edges in closed form. Objects composite on sub-pixels, at least
FINE_ROWS of them over the frame's shorter side, whose mean is the pixel. So the mean of the big drawing over boxes is the small
drawing: exactly up to FINE_ROWS rows, nearly above.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ivid.data import shapes
from ivid.data.grammar import BACKGROUNDS, COLOURS
from ivid.data.moving_shapes import Scene, angle, diameter, num_objects, position

FINE_ROWS = 96
ROUND_ROWS = 2  # rows per sub-pixel on which a circle's chords are measured
SHORT = 1e-3  # pixels: an edge's sideways extent within a row counts as at least this
CHUNK = 60_000  # numbers that numpy handles at a time, to stay in the cache
RGB = np.array(list(COLOURS.values()), np.float32)
# Gray levels of the two halves of the background.
LEVELS = np.array([{"black": (0, 0), "gray": (128, 128), "white": (255, 255)}.get(name, (90, 200)) for name in BACKGROUNDS], np.float32)


def draw(scene: Scene, *, times, height: int, width: int, crop: tuple | None = None, xp: Any = np):
  """The scene at `times` [T] seconds in a frame of height x width pixels: float32 [T, h, w, 3] in [0, 255].

  Args:
    crop: (top, left, h, w) in pixels of that frame; None draws all of it. With jnp, top and left may be traced.
    xp: numpy (evaluates objects in their bounding boxes, mixed pixels on sub-pixels) or jax.numpy (everything everywhere).
  """
  top, left, rows, columns = crop or (0, 0, height, width)
  fine = max(1, math.ceil(FINE_ROWS / min(height, width)))
  view = (top, left, rows, columns, height, width)
  if xp is np:
    return _draw_sparse(scene, np.asarray(times, np.float32), view, fine)
  x, y = _grid(xp, rows * fine, columns * fine, 1.0 / fine)
  covers = []
  for i in range(2):
    edges, ellipse = _outline(scene, i, times, view, xp), _ellipse(scene, i, times, view, xp)
    edges = tuple(edge[..., None, None] for edge in edges)  # [E, T, 1, 1]
    round_cover = _round_coverage(xp, tuple(e[:, None, None] for e in ellipse), x, y, 1.0 / fine)
    cover = xp.where(xp.asarray(shapes.IS_ROUND)[scene.shape[i]], round_cover, _polygon_coverage(xp, edges, x, y, 1.0 / fine))
    covers.append(cover * scene.present[i])
  picture = _composite(xp, scene, _light(xp, scene, view, x, y, 1.0 / fine), covers)
  return picture.reshape(len(times), rows, fine, columns, fine, 3).mean(axis=(2, 4))


def to_uint8(picture: np.ndarray) -> np.ndarray:
  """[0, 255] rounded to the nearest whole number."""
  return (picture + 0.5).astype(np.uint8)


def _grid(xp, rows: int, columns: int, step: float):
  """Left ends [1, columns] and top ends [rows, 1] of the cells of a grid that starts at the crop's corner, in pixels."""
  return xp.arange(columns, dtype=xp.float32)[None, :] * step, xp.arange(rows, dtype=xp.float32)[:, None] * step


def _outline(scene: Scene, i: int, times, view: tuple, xp, count: int | None = None):
  """Edges of object i at `times`, in pixels from the crop's corner: four arrays [E, T] ax, ay, bx, by."""
  top, left, _, _, height, width = view
  table = xp.asarray(shapes.EDGES)[scene.shape[i]][:count, None]  # [E, 1, 4]
  turn, size, place = angle(scene, times, xp)[:, i], diameter(scene, times, xp)[:, i], position(scene, times, xp)[:, i]
  c, s = xp.cos(turn) * size, xp.sin(turn) * size
  ends = []
  for x, y in ((table[..., 0], table[..., 1]), (table[..., 2], table[..., 3])):
    ends.append((c * x - s * y + place[:, 0]) * (width / scene.aspect) - left)
    ends.append((s * x + c * y + place[:, 1]) * height - top)
  return tuple(ends)


def _ellipse(scene: Scene, i: int, times, view: tuple, xp):
  """A round object i at `times`, in pixels from the crop's corner: centre x, y, half axes x, y, inner over outer: [T] each."""
  top, left, _, _, height, width = view
  place, half = position(scene, times, xp)[:, i], 0.5 * diameter(scene, times, xp)[:, i]
  across = width / scene.aspect
  inner = 2.0 * xp.asarray(shapes.INNER)[scene.shape[i]] + xp.zeros_like(half)
  return place[:, 0] * across - left, place[:, 1] * height - top, half * across, half * height, inner


def _ramp(xp, x):
  """Integral of clip(x, 0, 1) from minus infinity."""
  inside = xp.minimum(xp.maximum(x, 0.0), 1.0)
  return 0.5 * inside * inside + xp.maximum(x - 1.0, 0.0)


def _polygon_coverage(xp, edges, x, y, step: float):
  """Share of the cells [x, x + step] x [y, y + step] inside a polygon: sum over edges of the signed area to their left.

  An edge crosses a row of cells between two heights; within a cell the share of the row to the left of it is
  clip((x_edge - x) / step, 0, 1), linear pieces of x_edge, whose mean is a difference of _ramp.
  Edges lead ([E, ...]); x and y broadcast behind them.
  """
  ax, ay, bx, by = edges
  rise = by - ay
  slope = (bx - ax) / xp.where(rise == 0, 1.0, rise)
  enter, leave = xp.minimum(xp.maximum(ay, y), y + step), xp.minimum(xp.maximum(by, y), y + step)
  across = (leave - enter) * (1.0 / step)  # signed share of the row's height
  half = xp.maximum(0.5 * xp.abs(across * slope), 0.5 * SHORT)
  middle = (ax + (0.5 * (enter + leave) - ay) * slope - x) * (1.0 / step)
  middle = xp.minimum(xp.maximum(middle, -half), 1.0 + half)  # keeps the differences below accurate
  share = (across / (2.0 * half)) * (_ramp(xp, middle + half) - _ramp(xp, middle - half))
  return xp.minimum(xp.maximum(share.sum(axis=0), 0.0), 1.0)


def _round_coverage(xp, ellipse, x, y, step: float, rows: int = ROUND_ROWS):
  """Share of the cells inside an ellipse (or elliptic ring): chords exactly along x, the mean of `rows` of them along y."""
  centre_x, centre_y, half_x, half_y, inner = ellipse
  total = 0.0
  for row in range(rows):
    far = (y + (row + 0.5) * (step / rows) - centre_y) / half_y
    for sign, scale in ((1.0, 1.0), (-1.0, inner)):
      chord = half_x * xp.sqrt(xp.maximum(scale * scale - far * far, 0.0))
      right = xp.minimum(xp.maximum((centre_x + chord - x) * (1.0 / step), 0.0), 1.0)
      total = total + sign * (right - xp.minimum(xp.maximum((centre_x - chord - x) * (1.0 / step), 0.0), 1.0))
  return total * (1.0 / rows)


def _light(xp, scene: Scene, view: tuple, x, y, step: float):
  """Share of the cells [x, x + step] x [y, y + step] in the light half of the background."""
  top, left, _, _, height, width = view
  means = []
  for axis, (place, unit) in enumerate(((x + left, scene.aspect / width), (y + top, 1.0 / height))):
    first = place * (unit / scene.cell) + scene.phase[axis]
    length = step * unit / scene.cell
    mean = (_wave(xp, first + length) - _wave(xp, first)) / length
    means.append(1.0 + scene.bands[axis] * (2.0 * mean - 2.0))
  return 0.5 + 0.5 * means[0] * means[1]


def _wave(xp, u):
  """Integral from 0 of the wave that is 1 on [0, 1), 0 on [1, 2), with period 2."""
  period = xp.floor(0.5 * u)
  return period + xp.minimum(u - 2.0 * period, 1.0)


def _composite(xp, scene: Scene, light, covers):
  """Background, first object, second object, by their shares of each cell: [..., 3]."""
  levels = xp.asarray(LEVELS)[scene.background]
  picture = (levels[0] + (levels[1] - levels[0]) * light)[..., None]
  for i, cover in enumerate(covers):
    picture = picture + cover[..., None] * (xp.asarray(RGB)[scene.colour[i]] - picture)
  return picture


def _draw_sparse(scene: Scene, times: np.ndarray, view: tuple, fine: int) -> np.ndarray:
  rows, columns = view[2:4]
  light = _light(np, scene, view, *_grid(np, rows, columns, 1.0), 1.0)
  covers = [_boxed_coverage(scene, i, times, view, fine) for i in range(num_objects(scene))]
  picture = np.empty((len(times), rows, columns, 3), np.float32)
  picture[:] = _composite(np, scene, light, [])
  for i, cover in enumerate(covers):
    for k in range(len(times)):
      part = _occupied(cover[k])
      region, share = picture[k][part], cover[k][part][..., None]
      region += share * (RGB[scene.colour[i]] - region)
  if fine > 1:
    _refine(picture, scene, times, view, fine, light, covers)
  return picture


def _occupied(cover: np.ndarray) -> tuple[slice, slice]:
  """The bounding box of what is not 0 in `cover` [h, w]."""
  rows, columns = np.flatnonzero(cover.any(axis=1)), np.flatnonzero(cover.any(axis=0))
  if not len(rows):
    return slice(0), slice(0)
  return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _object_coverage(scene: Scene, i: int, times: np.ndarray, view: tuple, fine: int):
  """A function (which times, x, y, step) -> coverage of object i, with the axes of x and y behind the times."""
  if shapes.IS_ROUND[scene.shape[i]]:
    ellipse = _ellipse(scene, i, times, view, np)
    pick = lambda which: tuple(e[which][:, None, None] for e in ellipse)  # noqa: E731
    return lambda which, x, y, step: _round_coverage(np, pick(which), x, y, step, ROUND_ROWS * (fine if step == 1.0 else 1))
  edges = _outline(scene, i, times, view, np, int(shapes.NUM_EDGES[scene.shape[i]]))
  return lambda which, x, y, step: _polygon_coverage(np, tuple(e[:, which][..., None, None] for e in edges), x, y, step)


def _boxed_coverage(scene: Scene, i: int, times: np.ndarray, view: tuple, fine: int) -> np.ndarray:
  """Coverage of object i of the crop's pixels [T, h, w], worked out in its bounding boxes only."""
  rows, columns = view[2:4]
  cover = np.zeros((len(times), rows, columns), np.float32)
  coverage = _object_coverage(scene, i, times, view, fine)
  x0, x1, y0, y1 = _bounds(scene, i, times, view)
  inside = np.flatnonzero((x1 > x0) & (y1 > y0))
  if not len(inside):
    return cover
  cost = max(1, shapes.NUM_EDGES[scene.shape[i]]) * (x1 - x0).max() * (y1 - y0).max()
  chunk = max(1, int(CHUNK // cost))
  for begin in range(0, len(inside), chunk):
    which = inside[begin : begin + chunk]
    w, h = (x1 - x0)[which].max(), (y1 - y0)[which].max()
    left, top = np.minimum(x0[which], columns - w), np.minimum(y0[which], rows - h)
    x, y = _grid(np, h, w, 1.0)
    part = coverage(which, x + left[:, None, None].astype(np.float32), y + top[:, None, None].astype(np.float32), 1.0)
    for k, frame in enumerate(which):
      cover[frame, top[k] : top[k] + h, left[k] : left[k] + w] = part[k]
  return cover


def _bounds(scene: Scene, i: int, times: np.ndarray, view: tuple):
  """First and last + 1 column, first and last + 1 row [T] of the crop that object i can touch at each time."""
  rows, columns = view[2:4]
  if shapes.IS_ROUND[scene.shape[i]]:
    cx, cy, rx, ry, _ = _ellipse(scene, i, times, view, np)
    ends = (cx - rx, cx + rx, cy - ry, cy + ry)
  else:
    ax, ay, _, _ = _outline(scene, i, times, view, np, int(shapes.NUM_EDGES[scene.shape[i]]))
    ends = (ax.min(axis=0), ax.max(axis=0), ay.min(axis=0), ay.max(axis=0))
  limits = (columns, columns, rows, rows)
  rounded = (np.floor(ends[0]), np.ceil(ends[1]), np.floor(ends[2]), np.ceil(ends[3]))
  return tuple(np.clip(end, 0, limit).astype(int) for end, limit in zip(rounded, limits, strict=True))


def _refine(picture: np.ndarray, scene: Scene, times: np.ndarray, view: tuple, fine: int, light: np.ndarray, covers: list[np.ndarray]):
  """Draws again, from sub-pixels, the pixels in which two borders meet: there the shares do not tell what covers what."""
  borders = [(cover > 0) & (cover < 1) for cover in covers]
  mixed = np.broadcast_to((light > 0) & (light < 1) & bool(scene.bands.any()), borders[0].shape)
  meet = borders[0] & mixed if len(borders) == 1 else (borders[0] & borders[1]) | ((borders[0] | borders[1]) & mixed)
  frames, rows, columns = np.nonzero(meet)
  if not len(frames):
    return
  step = 1.0 / fine
  dx, dy = _grid(np, fine, fine, step)
  functions = [_object_coverage(scene, i, times, view, fine) for i in range(len(covers))]
  chunk = max(1, CHUNK // (fine * fine * 12))
  for begin in range(0, len(frames), chunk):
    at = slice(begin, begin + chunk)
    x = columns[at, None, None].astype(np.float32) + dx
    y = rows[at, None, None].astype(np.float32) + dy
    parts = [function(frames[at], x, y, step) for function in functions]
    drawn = _composite(np, scene, _light(np, scene, view, x, y, step), parts)
    picture[frames[at], rows[at], columns[at]] = drawn.mean(axis=(1, 2))
