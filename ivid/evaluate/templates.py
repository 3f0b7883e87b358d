"""Which of the world's shapes a coverage is, where, how large and how turned: least squares against drawn shapes."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import ndimage

from ivid.data import shapes
from ivid.data.grammar import FIRST_LETTER, ROUND, SHAPES

CELLS = 144  # of a template, across
SPAN = 1.5  # diameters that a template covers
PIXEL = 1 / 12  # variance of a pixel's box
# Diameters, in pixels, for which templates are blurred.
SMALLEST, RATIO, LEVELS = 2.0, 1.25, 16
FEW = np.array([0, 0.07, 0.2, 0.47, 0.73, 1])  # frames of the first look
SMALL_LETTER, SMALL_LETTER_DOUBT = 0.32, 1.4  # shares of the limit, which is a frame's height
MIN_OPEN = 3  # frames without hidden parts that the first look makes do with
SUBCELLS = 3
RIDGE = 0.05  # keeps a frame without evidence where it is
NUM_SHAPES = len(SHAPES)
TURNS = np.array([s * w for s in (-1, 1) for w in np.linspace(0.5, 1.05, 11)])  # in a clip
OFFSETS = np.linspace(-0.05, 0.05, 5)  # of the second look
LIKELY = 10  # shapes, by the first frame, where a spinning one is upright
FREE = 10  # spinning fits whose place is refined, where some of the object is hidden


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
    return mass, *((self.cover * place).sum(axis=(1, 2)) / mass for place in (self.x, self.y))

  def __getitem__(self, frames) -> Patch:
    return Patch(*(getattr(self, field.name)[frames] for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class Fit:
  """A shape laid over a patch: its index, place and diameter [T] in pixels, turns in a clip, mean squared error over mean square."""

  shape: int
  x: np.ndarray
  y: np.ndarray
  diameter: np.ndarray
  turns: float
  error: float


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


def _cells(patch: Patch, shape: np.ndarray, x, y, diameter, turn):
  """Places of the patch's pixels in the templates, in cells from the middle, and their indices in the bank; see `coverage`."""
  x, y, diameter = (np.asarray(a, np.float32)[..., None, None] for a in (x, y, diameter))
  scale = (CELLS / SPAN) / diameter
  dx, dy = (patch.x - x) * scale, (patch.y - y) * scale  # [K, T, 1, w], [K, T, h, 1]
  if turn is not None:
    c, s = np.cos(turn).astype(np.float32)[..., None, None], np.sin(turn).astype(np.float32)[..., None, None]
    dx, dy = c * dx + s * dy, c * dy - s * dx
  level = np.clip(np.rint(np.log(diameter / SMALLEST) * (1 / np.log(RATIO))), 0, LEVELS - 1).astype(np.int32)
  first = (level * NUM_SHAPES + shape[:, None, None, None].astype(np.int32)) * CELLS**2
  row, column = (np.minimum(np.maximum(d + CELLS / 2, 0), CELLS - 1).astype(np.int32) for d in (dy, dx))
  return dx, dy, (first + row * CELLS) + column


def coverage(patch: Patch, shape: np.ndarray, x, y, diameter, turn, blur: float) -> np.ndarray:
  """Coverage [K, T, h, w] of the patch's pixels by K shapes [K] at x, y [K, T] pixels, turned by `turn` radians [K, T] or None."""
  return _bank(blur).take(_cells(patch, shape, x, y, diameter, turn)[2])


def _error(patch: Patch, drawn: np.ndarray) -> np.ndarray:
  """[K] weighted squared error of [K, T, h, w] over the patch's own weighted square."""
  difference = drawn - patch.cover
  square = np.einsum("kthw,kthw,thw->k", difference, difference, patch.weight)
  return square / max(float((patch.weight * patch.cover**2).sum()), 1e-6)


def _guess(patch: Patch, shape: np.ndarray, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Places x, y, diameters and turns [K, T] of shapes [K] that give the patch's area and centroid."""
  area, centre = moments()
  mass, cx, cy = patch.moments
  diameter = np.sqrt(mass / area[shape][:, None])
  angle = 2 * np.pi * turns[:, None] * patch.time
  c, s = np.cos(angle), np.sin(angle)
  ox, oy = centre[shape].T[..., None]
  return cx - diameter * (c * ox - s * oy), cy - diameter * (s * ox + c * oy), diameter, angle


def _refine(patch: Patch, shape: np.ndarray, x, y, d, angle, blur: float, steps: int, limit: float):
  """Gauss-Newton on place and diameter of every frame: x, y, d [K, T]. `limit`: largest diameter, pixels."""
  T = len(patch.cover)
  weight = patch.weight.reshape(T, 1, -1)
  for _ in range(steps):
    dx, dy, cells = _cells(patch, shape, x, y, d, angle)
    left = ((patch.cover - _bank(blur).take(cells)) * patch.weight).reshape(*d.shape, -1, 1)
    along = _slopes(blur).take(cells, axis=0)
    # A larger shape is sampled nearer to its middle.
    slope = np.stack([-along[..., 0], -along[..., 1], -(dx * along[..., 0] + dy * along[..., 1])], axis=2)
    slope = slope.reshape(*d.shape, 3, -1)
    normal = (slope * weight) @ np.swapaxes(slope, -1, -2)
    per_pixel = np.stack([np.full_like(d, CELLS / SPAN)] * 2 + [np.ones_like(d)], axis=-1) / d[..., None]
    normal = normal * per_pixel[..., :, None] * per_pixel[..., None, :] + RIDGE * np.eye(3, dtype=np.float32)
    step = np.linalg.solve(normal, (slope @ left) * per_pixel[..., None])[..., 0]
    if angle is not None:  # from the shape's axes to the frame's
      c, s = np.cos(angle), np.sin(angle)
      step[..., 0], step[..., 1] = c * step[..., 0] - s * step[..., 1], s * step[..., 0] + c * step[..., 1]
    bound = 0.15 * d[..., None] + 0.5
    step = np.clip(step, -bound, bound)
    x, y, d = x + step[..., 0], y + step[..., 1], np.clip(d + step[..., 2], SMALLEST, limit)
  return x, y, d


def _few(patch: Patch, hidden: np.ndarray) -> tuple[Patch, bool]:
  """Some frames, those where nothing is `hidden` [T] if there are such; whether they have hidden parts.

  Their distances differ, so that turns of one rate do not look like those of another.
  """
  open_ = np.flatnonzero(~hidden)
  frames = open_ if len(open_) >= MIN_OPEN else np.arange(len(hidden))
  picked = frames[np.unique(np.rint(FEW * (len(frames) - 1)).astype(int))]
  return patch[picked], bool(hidden[picked].any())


def lines(track: np.ndarray, time: np.ndarray) -> np.ndarray:
  """The straight line through each of the tracks [K, T], robust against a few frames."""
  i, j = np.triu_indices(len(time), min(3, len(time) - 1))
  slope = np.median((track[:, j] - track[:, i]) / (time[j] - time[i]), axis=1, keepdims=True)
  return slope * time + np.median(track - slope * time, axis=1, keepdims=True)


def _uncover(patch: Patch, shape: np.ndarray, x, y, d, blur: float, limit: float, hidden: np.ndarray):
  """Refines the `hidden` [T] frames, from where they are and from steady ways and growth; every frame keeps its better fit."""
  part, fits = patch[hidden], []
  x[:, hidden], y[:, hidden], d[:, hidden] = _refine(part, shape, *(a[:, hidden] for a in (x, y, d)), None, blur, 4, limit)
  ways = lines(x, patch.time), lines(y, patch.time), np.clip(np.exp(lines(np.log(d), patch.time)), SMALLEST, limit)
  steady = _refine(part, shape, *(way[:, hidden] for way in ways), None, blur, 2, limit)
  for place in ([a[:, hidden] for a in (x, y, d)], steady):
    difference = coverage(part, shape, *place, None, blur) - part.cover
    fits.append(np.einsum("kthw,kthw,thw->kt", difference, difference, part.weight))
  better = fits[1] < fits[0]
  for track, other in zip((x, y, d), steady, strict=True):
    track[:, hidden] = np.where(better, other, track[:, hidden])
  return x, y, d


def _doubt(shape: np.ndarray, d: np.ndarray, limit: float) -> np.ndarray:
  """Factor [K] on errors: the world has no small letters, so the evidence for one has to be better."""
  small = np.median(d, axis=1) < SMALL_LETTER * limit
  return np.where(small & (shape >= FIRST_LETTER), SMALL_LETTER_DOUBT, 1.0)


def fit_upright(patch: Patch, blur: float, limit: float, hidden: np.ndarray, keep: int = 4) -> Fit:
  """The shape, upright, that fits best.

  Args:
    hidden: [T] frames in which some of it may be hidden, so that area and centroid are only a first guess.
  """
  every = np.arange(NUM_SHAPES)
  few, partly = _few(patch, hidden)
  x, y, d, _ = _guess(few, every, np.zeros(NUM_SHAPES))
  if partly:
    x, y, d = _refine(few, every, x, y, d, None, blur, 3, limit)
    keep = 2 * keep
  best = np.argsort(_error(few, coverage(few, every, x, y, d, None, blur)))[:keep]
  x, y, d, _ = _guess(patch, best, np.zeros(keep))
  x, y, d = _refine(patch, best, x, y, d, None, blur, 1, limit)
  if hidden.any():
    x, y, d = _uncover(patch, best, x, y, d, blur, limit, hidden)
  error = _error(patch, coverage(patch, best, x, y, d, None, blur))
  k = int((error * _doubt(best, d, limit)).argmin())
  return Fit(int(best[k]), x[k], y[k], d[k], 0.0, float(error[k]))


def fit_spinning(patch: Patch, blur: float, limit: float, hidden: np.ndarray, keep: int = 5) -> Fit:
  """The shape, upright in the first frame and turning evenly on the spot, that fits best. See `fit_upright`."""
  kinds = np.array([s for s in range(NUM_SHAPES) if s not in ROUND])
  few, _ = _few(patch, hidden)
  if few.time[0] == 0 and not hidden[0]:
    x, y, d, _ = _guess(few[:1], kinds, np.zeros(len(kinds)))
    kinds = kinds[np.argsort(_error(few[:1], coverage(few[:1], kinds, x, y, d, None, blur)))[:LIKELY]]
  shape, turns = np.repeat(kinds, len(TURNS)), np.tile(TURNS, len(kinds))

  def errors(part: Patch, shape: np.ndarray, turns: np.ndarray, free: bool):
    x, y, d, angle = _guess(part, shape, turns)
    if free:
      x, y, d = _refine(part, shape, x, y, d, angle, blur, 2, limit)
    x, y, d = (np.repeat(np.median(track, axis=1, keepdims=True), track.shape[1], axis=1) for track in (x, y, d))
    return _error(part, coverage(part, shape, x, y, d, angle, blur)), x, y, d

  coarse = errors(few, shape, turns, False)[0].reshape(len(kinds), len(TURNS))
  best = np.argsort(coarse.min(axis=1))[:keep]
  start = TURNS[np.argsort(coarse[best], axis=1)[:, :2]]  # [keep, 2]
  shape = np.repeat(kinds[best], start.shape[1] * len(OFFSETS))
  turns = (start[..., None] + OFFSETS).ravel()
  fits = []
  for free in (False, True) if hidden.any() else (False,):
    error, x, y, d = errors(patch, shape, turns, free)
    order = np.argsort(error * _doubt(shape, d, limit))
    k = order[0]
    fits.append(Fit(int(shape[k]), x[k], y[k], d[k], float(turns[k]), float(error[k])))
    shape, turns = shape[order[:FREE]], turns[order[:FREE]]
  return min(fits, key=lambda fit: fit.error)
