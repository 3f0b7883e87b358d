"""Finds the shape, place, size and turn of a coverage by least squares against drawn shapes."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from ivid.moving_shapes.grammar import FIRST_LETTER, ROUND, SHAPES
from ivid.moving_shapes.templates import SMALLEST, Patch, Pose, coverage, error, guess, refine

FEW = np.array([0, 0.07, 0.2, 0.47, 0.73, 1])  # frames of the first look
SMALL_LETTER, SMALL_LETTER_DOUBT = 0.32, 1.4  # shares of the limit, which is a frame's height
MIN_OPEN = 3  # frames without hidden parts that suffice for the first look
NUM_SHAPES = len(SHAPES)
TURNS = np.array([s * w for s in (-1, 1) for w in np.linspace(0.5, 1.05, 11)])  # in a clip
OFFSETS = np.linspace(-0.05, 0.05, 5)  # of the second look
LIKELY = 10  # shapes, by the first frame, where a spinning one is upright
FREE = 10  # spinning fits whose place is refined, where some of the object is hidden
# Of single pictures: angles of the first look in a turn, and at how many of them a shape looks the same.
ANGLES = 16
FOLDS = {"square": 4, "cross": 4, "triangle": 3, "star": 5} | {f"letter {c}": 2 for c in "HINSXZ"}
TINY, STRANGE_DOUBT = 0.15, 3.0  # no picture of the world has a shape so small, in shares of the limit, or a small letter


@dataclasses.dataclass(frozen=True)
class Fit:
  """A shape laid over a patch: its index, place and diameter [T] in pixels, turns in a clip, mean squared error over mean square."""

  shape: int
  x: np.ndarray
  y: np.ndarray
  diameter: np.ndarray
  turns: float
  error: float


def _few(patch: Patch, hidden: np.ndarray) -> tuple[Patch, bool]:
  """A few frames, if possible without `hidden` [T] parts; and whether they have hidden parts.

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


def _uncover(patch: Patch, shape: np.ndarray, pose: Pose, blur: float, limit: float, hidden: np.ndarray) -> Pose:
  """Refines the `hidden` [T] frames, from their own fits and from steady motion and growth; every frame keeps the better fit."""
  part, fits = patch[hidden], []
  first = refine(part, shape, pose.pick((slice(None), hidden)), blur, 4, limit)
  for track, better in zip(pose[:3], first[:3], strict=True):
    track[:, hidden] = better
  x, y, d, _ = pose
  x, y, d = lines(x, patch.time), lines(y, patch.time), np.clip(np.exp(lines(np.log(d), patch.time)), SMALLEST, limit)
  steady = refine(part, shape, Pose(x[:, hidden], y[:, hidden], d[:, hidden], None), blur, 2, limit)
  for place in (first, steady):
    difference = coverage(part, shape, place, blur) - part.cover
    fits.append(np.einsum("kthw,kthw,thw->kt", difference, difference, part.weight))
  better = fits[1] < fits[0]
  for track, other in zip(pose[:3], steady[:3], strict=True):
    track[:, hidden] = np.where(better, other, track[:, hidden])
  return pose


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
  pose = guess(few, every)
  if partly:
    pose = refine(few, every, pose, blur, 3, limit)
    keep = 2 * keep
  best = np.argsort(error(few, coverage(few, every, pose, blur)))[:keep]
  pose = refine(patch, best, guess(patch, best), blur, 1, limit)
  if hidden.any():
    pose = _uncover(patch, best, pose, blur, limit, hidden)
  errors = error(patch, coverage(patch, best, pose, blur))
  k = int((errors * _doubt(best, pose.diameter, limit)).argmin())
  return Fit(int(best[k]), pose.x[k], pose.y[k], pose.diameter[k], 0.0, float(errors[k]))


def fit_spinning(patch: Patch, blur: float, limit: float, hidden: np.ndarray, keep: int = 5) -> Fit:
  """The shape, upright in the first frame and turning evenly on the spot, that fits best. See `fit_upright`."""
  kinds = np.array([s for s in range(NUM_SHAPES) if s not in ROUND])
  few, _ = _few(patch, hidden)
  if few.time[0] == 0 and not hidden[0]:
    kinds = kinds[np.argsort(error(few[:1], coverage(few[:1], kinds, guess(few[:1], kinds), blur)))[:LIKELY]]
  shape, turns = np.repeat(kinds, len(TURNS)), np.tile(TURNS, len(kinds))

  def errors(part: Patch, shape: np.ndarray, turns: np.ndarray, free: bool) -> tuple[np.ndarray, Pose]:
    pose = guess(part, shape, turns)
    if free:
      pose = refine(part, shape, pose, blur, 2, limit)
    x, y, d = (np.repeat(np.median(track, axis=1, keepdims=True), track.shape[1], axis=1) for track in pose[:3])
    pose = Pose(x, y, d, pose.turn)
    return error(part, coverage(part, shape, pose, blur)), pose

  coarse = errors(few, shape, turns, False)[0].reshape(len(kinds), len(TURNS))
  best = np.argsort(coarse.min(axis=1))[:keep]
  start = TURNS[np.argsort(coarse[best], axis=1)[:, :2]]  # [keep, 2]
  shape = np.repeat(kinds[best], start.shape[1] * len(OFFSETS))
  turns = (start[..., None] + OFFSETS).ravel()
  fits = []
  for free in (False, True) if hidden.any() else (False,):
    left, pose = errors(patch, shape, turns, free)
    order = np.argsort(left * _doubt(shape, pose.diameter, limit))
    k = order[0]
    fits.append(Fit(int(shape[k]), pose.x[k], pose.y[k], pose.diameter[k], float(turns[k]), float(left[k])))
    shape, turns = shape[order[:FREE]], turns[order[:FREE]]
  return min(fits, key=lambda fit: fit.error)


@functools.cache
def _turned() -> tuple[np.ndarray, np.ndarray]:
  """Shapes [K] and turns [K] of the first look at a single picture: ANGLES of every shape, as far as they differ."""
  pairs = []
  for shape, name in enumerate(SHAPES):
    folds = ANGLES if shape in ROUND else FOLDS.get(name, 1)
    count = -(-ANGLES // folds)
    pairs += [(shape, k / (folds * count)) for k in range(count)]
  shape, turns = zip(*pairs, strict=True)
  return np.array(shape), np.array(turns)


def fit_turned(patch: Patch, blur: float, limit: float, hidden: np.ndarray, keep: int = 16) -> Fit:
  """The shape, turned by any angle, that fits a single picture best. Its time is 1, so that `turns` is the angle. See `fit_upright`."""
  shape, turns = _turned()
  pose = guess(patch, shape, turns)
  if hidden.any():
    pose = refine(patch, shape, pose, blur, 2, limit)
  best = np.argsort(error(patch, coverage(patch, shape, pose, blur)))[:keep]
  shape = shape[best]
  pose = refine(patch, shape, pose.pick(best), blur, 4, limit, turning=True)
  errors = error(patch, coverage(patch, shape, pose, blur))
  share = pose.diameter[:, 0] / limit
  strange = (share < TINY) | ((share < SMALL_LETTER) & (shape >= FIRST_LETTER))
  k = int((errors * np.where(strange, STRANGE_DOUBT, 1.0)).argmin())
  return Fit(int(shape[k]), pose.x[k], pose.y[k], pose.diameter[k], float(pose.turn[k, 0] / (2 * np.pi)), float(errors[k]))
