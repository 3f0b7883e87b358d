"""Drawing moving_shapes: exact area coverage of every pixel, in numpy and (the same functions) inside jit.

A polygon's coverage of a pixel is an integral along its edges in closed form. Objects composite on sub-pixels, at least
FINE_ROWS of them over the frame's shorter side, whose mean is the pixel. So the mean of the big drawing over boxes is the small
drawing: exactly up to FINE_ROWS rows, nearly above.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ivid.moving_shapes import outlines as shapes
from ivid.moving_shapes.grammar import BACKGROUNDS, COLOURS
from ivid.moving_shapes.scene import Scene, angle, diameter, num_objects, position

FINE_ROWS = 96
ROUND_ROWS = 2  # rows per sub-pixel on which a circle's chords are measured
SHORT = 1e-3  # pixels: an edge's sideways extent within a row counts as at least this
NEAR = 0.01  # pixels: an edge that ends so far to the left of a pixel adds nothing to it, rounding and SHORT included
UNROLL = 4  # edges of all objects that one turn of XLA's loop adds
CHUNK = 60_000  # values that numpy processes at a time, so that they stay in the cache
RGB = np.array(list(COLOURS.values()), np.float32)
# Of every shape: x and y of both ends of its edges [32, 2 axes, 2 ends, E, 1].
_ENDS = np.ascontiguousarray(shapes.EDGES.reshape(*shapes.EDGES.shape[:2], 2, 2).transpose(0, 3, 2, 1)[..., None])
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
  covers, poses = [], _poses(scene, times, xp)
  outlines = zip(*(_outline(scene, i, poses, view, xp) for i in range(2)), strict=True)
  edges = tuple(xp.stack(pair, axis=1)[..., None, None] for pair in outlines)  # [E, 2, T, 1, 1]
  for i, cover in enumerate(_polygon_coverage(xp, edges, x, y, 1.0 / fine)):
    ellipse = tuple(e[:, None, None] for e in _ellipse(scene, i, poses, view, xp))
    round_cover = _round_coverage(xp, ellipse, x, y, 1.0 / fine)
    covers.append(xp.where(xp.asarray(shapes.IS_ROUND)[scene.shape[i]], round_cover, cover) * scene.present[i])
  picture = _composite(xp, scene, _light(xp, scene, view, x, y, 1.0 / fine), covers)
  return picture.reshape(len(times), rows, fine, columns, fine, 3).mean(axis=(2, 4))


def covers(scene: Scene, *, times, height: int, width: int) -> list[np.ndarray]:
  """The share of every pixel that each object would cover if it were in front of all others: float32 [T, height, width] of each."""
  view, poses = (0, 0, height, width, height, width), _poses(scene, np.asarray(times, np.float32), np)
  return [_Part(scene, i, poses, view, max(1, FINE_ROWS // height)).cover for i in range(num_objects(scene))]


def rounded(picture: np.ndarray) -> np.ndarray:
  """[0, 255] rounded to the nearest whole number."""
  return (picture + 0.5).astype(np.uint8)


def _grid(xp, rows: int, columns: int, step: float):
  """Left ends [1, columns] and top ends [rows, 1] of the cells of a grid that starts at the crop's corner, in pixels."""
  return xp.arange(columns, dtype=xp.float32)[None, :] * step, xp.arange(rows, dtype=xp.float32)[:, None] * step


def _poses(scene: Scene, times, xp):
  """Where the objects are [T, 2, 2], their diameters [T, 2] and turns [T, 2]."""
  return position(scene, times, xp), diameter(scene, times, xp), angle(scene, times, xp)


def _outline(scene: Scene, i: int, poses: tuple, view: tuple, xp, count: int | None = None):
  """Edges of object i in these poses, in pixels from the crop's corner: four arrays [E, T] ax, ay, bx, by."""
  top, left, _, _, height, width = view
  table = xp.asarray(_ENDS)[scene.shape[i]][:, :, :count]
  place, size, turn = (pose[:, i] for pose in poses)
  c, s = xp.cos(turn) * size, xp.sin(turn) * size
  x, y = table[0], table[1]  # [2 ends, E, 1]
  ends_x = (c * x - s * y + place[:, 0]) * (width / scene.aspect) - left
  ends_y = (s * x + c * y + place[:, 1]) * height - top
  return ends_x[0], ends_y[0], ends_x[1], ends_y[1]


def _ellipse(scene: Scene, i: int, poses: tuple, view: tuple, xp):
  """A round object i in these poses, in pixels from the crop's corner: centre x, y, half axes x, y, inner over outer: [T] each."""
  top, left, _, _, height, width = view
  place, half = poses[0][:, i], 0.5 * poses[1][:, i]
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
  ax, ay, _, by = edges
  edges = (ax, ay, by, _slope(xp, edges))
  if xp is np:
    total = _edge_shares(xp, edges, x, y, step).sum(axis=0)
  else:
    import jax  # numpy draws without it

    # One edge after the other: XLA on a CPU would make room for all of them at once, and take fourteen times as long.
    zeros = xp.zeros(np.broadcast_shapes(ax.shape[1:], x.shape, y.shape), xp.float32)
    total, _ = jax.lax.scan(lambda added, edge: (added + _edge_shares(xp, edge, x, y, step), None), zeros, edges, unroll=UNROLL)
  return xp.minimum(xp.maximum(total, 0.0), 1.0)


def _slope(xp, edges):
  """The horizontal distance per vertical distance of each edge; any number where it is level."""
  ax, ay, bx, by = edges
  rise = by - ay
  return (bx - ax) / xp.where(rise == 0, 1.0, rise)


def _edge_shares(xp, edges, x, y, step: float):
  """Signed share of the cells to the left of each edge (ax, ay, by, slope), see _polygon_coverage."""
  ax, ay, by, slope = edges
  enter, leave = xp.minimum(xp.maximum(ay, y), y + step), xp.minimum(xp.maximum(by, y), y + step)
  across = (leave - enter) * (1.0 / step)  # signed share of the row's height
  half = xp.maximum(0.5 * xp.abs(across * slope), 0.5 * SHORT)
  middle = (ax + (0.5 * (enter + leave) - ay) * slope - x) * (1.0 / step)
  middle = xp.minimum(xp.maximum(middle, -half), 1.0 + half)  # keeps the differences below accurate
  return (across / (2.0 * half)) * (_ramp(xp, middle + half) - _ramp(xp, middle - half))


def _round_coverage(xp, ellipse, x, y, step: float, rows: int = ROUND_ROWS):
  """Share of the cells inside an ellipse (or elliptic ring): chords exactly along x, the mean of `rows` of them along y."""
  centre_x, centre_y, half_x, half_y, inner = ellipse
  # The chords of the whole, those of the hole counting -1, [rows x 2 or 1, ...] in front of all other axes.
  scales, signs = ([inner], [-1.0]) if xp is not np or inner.any() else ([], [])
  offsets = np.array([(row + 0.5) * (step / rows) for row in range(rows)], np.float32).reshape(-1, 1, 1, 1, 1)
  far = (y + offsets - centre_y) / half_y
  squares = xp.stack([xp.ones_like(inner), *(scale * scale for scale in scales)])  # [2 or 1, ...]
  chord = half_x * xp.sqrt(xp.maximum(squares - far * far, 0.0))
  right = xp.minimum(xp.maximum((centre_x + chord - x) * (1.0 / step), 0.0), 1.0)
  share = right - xp.minimum(xp.maximum((centre_x - chord - x) * (1.0 / step), 0.0), 1.0)
  if signs:
    share = share * np.array([1.0, *signs], np.float32).reshape(-1, 1, 1, 1)
  return share.reshape(-1, *share.shape[2:]).sum(axis=0) * (1.0 / rows)


def _light(xp, scene: Scene, view: tuple, x, y, step: float):
  """Share of the cells [x, x + step] x [y, y + step] in the light half of the background; one number for all where it is plain."""
  if xp is np and not scene.bands.any():
    return np.float32(1.0)
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
  poses = _poses(scene, times, np)
  parts = [_Part(scene, i, poses, view, fine) for i in range(num_objects(scene))]
  picture = np.empty((len(times), rows, columns, 3), np.float32)
  picture[:] = _composite(np, scene, light, [])
  for i, part in enumerate(parts):
    for k, (y, x) in enumerate(part.boxes):
      region, share = picture[k, y, x], part.cover[k, y, x, None]
      region += share * (RGB[scene.colour[i]] - region)
  if fine > 1:
    _refine(picture, scene, view, fine, light, parts)  # pyright: ignore[reportArgumentType]  NumPy's stubs widen the type
  return picture


class _Part:
  """An object at all times of a clip.

  Attributes:
    boxes: rows and columns of the crop that it can touch, at each time.
    cover: coverage of the crop's pixels [T, h, w], worked out in the boxes only.
  """

  def __init__(self, scene: Scene, i: int, poses: tuple, view: tuple, fine: int):
    rows, columns = view[2:4]
    self._fine, self._round = fine, bool(shapes.IS_ROUND[scene.shape[i]])
    if self._round:
      self._outline = cx, cy, rx, ry, _ = _ellipse(scene, i, poses, view, np)
      ends = (cx - rx, cx + rx, cy - ry, cy + ry)
    else:
      self._outline = ax, ay, _, _ = _outline(scene, i, poses, view, np, int(shapes.NUM_EDGES[scene.shape[i]]))
      ends = (ax.min(axis=0), ax.max(axis=0), ay.min(axis=0), ay.max(axis=0))
    spans = zip(*(end.tolist() for end in ends), strict=True)
    self.boxes = [(_between(y0, y1, rows), _between(x0, x1, columns)) for x0, x1, y0, y1 in spans]
    self.cover = self._boxed(rows, columns)

  def at(self, which: np.ndarray, x: np.ndarray, y: np.ndarray, step: float) -> np.ndarray:
    """Coverage of the cells [x, x + step] x [y, y + step], whose axes follow the times `which`."""
    if self._round:
      ellipse = tuple(e[which][:, None, None] for e in self._outline)
      return _round_coverage(np, ellipse, x, y, step, ROUND_ROWS * (self._fine if step == 1.0 else 1))
    return _polygon_coverage(np, tuple(e[:, which][..., None, None] for e in self._outline), x, y, step)

  def inside_pixels(self, frames: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Coverage of the sub-pixels [P, fine, fine] of some pixels, given by arrays [P]."""
    step = 1.0 / self._fine
    dx, dy = _grid(np, self._fine, self._fine, step)
    x, y = columns[:, None, None].astype(np.float32) + dx, rows[:, None, None].astype(np.float32) + dy
    if self._round:
      return self.at(frames, x, y, step)
    ax, ay, bx, by = (e.T[frames] for e in self._outline)  # [P, E]
    # Edges above, below and to the left of a pixel add exactly nothing.
    left, top = columns[:, None] - NEAR, rows[:, None]
    near = (np.maximum(ax, bx) > left) & (np.minimum(ay, by) < top + 1) & (np.maximum(ay, by) > top)
    pixel, edge = np.nonzero(near)
    edges = tuple(e[pixel, edge][:, None, None] for e in (ax, ay, bx, by))
    ax, ay, bx, by = edges
    shares = _edge_shares(np, (ax, ay, by, _slope(np, edges)), x[pixel], y[pixel], step)
    cover = np.zeros((len(frames), self._fine, self._fine), np.float32)
    if len(pixel):
      first = np.flatnonzero(np.diff(pixel, prepend=-1))
      cover[pixel[first]] = np.minimum(np.maximum(np.add.reduceat(shares, first), 0.0), 1.0)
    return cover

  def _boxed(self, rows: int, columns: int) -> np.ndarray:
    cover = np.zeros((len(self.boxes), rows, columns), np.float32)
    sizes = [(y.stop - y.start, x.stop - x.start) for y, x in self.boxes]
    inside = [k for k, (h, w) in enumerate(sizes) if h > 0 and w > 0]
    if not inside:
      return cover
    terms = 2 * ROUND_ROWS * self._fine if self._round else len(self._outline[0])
    chunk = max(1, CHUNK // (terms * max(h for h, _ in sizes) * max(w for _, w in sizes)))
    for begin in range(0, len(inside), chunk):
      which = inside[begin : begin + chunk]
      h, w = (max(sizes[k][axis] for k in which) for axis in (0, 1))
      corners = [(min(self.boxes[k][0].start, rows - h), min(self.boxes[k][1].start, columns - w)) for k in which]
      x, y = _grid(np, h, w, 1.0)
      top, left = np.array(corners, np.float32).T[..., None, None]
      part = self.at(np.array(which), x + left, y + top, 1.0)
      for k, (top, left), found in zip(which, corners, part, strict=True):
        cover[k, top : top + h, left : left + w] = found
    return cover


def _between(low: float, high: float, limit: int) -> slice:
  """The cells from 0 to `limit` that [low, high] touches."""
  return slice(min(max(math.floor(low), 0), limit), min(max(math.ceil(high), 0), limit))


def _refine(picture: np.ndarray, scene: Scene, view: tuple, fine: int, light: np.ndarray, parts: list[_Part]):
  """Redraws, from sub-pixels, the pixels in which two borders meet, because the shares do not tell which object covers which."""
  striped = bool(scene.bands.any())
  if len(parts) == 1 and not striped:
    return
  borders = [(part.cover > 0) & (part.cover < 1) for part in parts]
  meet = borders[0] & borders[1] if len(parts) == 2 else np.zeros_like(borders[0])
  if striped:
    meet = meet | (functools.reduce(np.logical_or, borders) & (light > 0) & (light < 1))
  frames, rows, columns = np.nonzero(meet)
  if not len(frames):
    return
  step = 1.0 / fine
  dx, dy = _grid(np, fine, fine, step)
  chunk = max(1, CHUNK // (fine * fine * 12))
  for begin in range(0, len(frames), chunk):
    at = slice(begin, begin + chunk)
    x = columns[at, None, None].astype(np.float32) + dx
    y = rows[at, None, None].astype(np.float32) + dy
    covers = [part.inside_pixels(frames[at], rows[at], columns[at]) for part in parts]
    drawn = _composite(np, scene, _light(np, scene, view, x, y, step), covers)
    picture[frames[at], rows[at], columns[at]] = drawn.mean(axis=(1, 2))
