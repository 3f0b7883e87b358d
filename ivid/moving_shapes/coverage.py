"""Measures which part of a moving_shapes clip each colour covers, and the gray background: pixels in, coverages out.

Backgrounds have no colour. The chroma of a pixel (RGB without its gray part, a point in a plane) is therefore the object's chroma times the
share that the object covers, whatever lies behind.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from scipy import ndimage

from ivid.moving_shapes.grammar import BACKGROUNDS, COLOURS

PLANE = np.array([[2, -1, -1], [0, np.sqrt(3), -np.sqrt(3)]], np.float32) / np.sqrt(6, dtype=np.float32)  # orthonormal, across gray
CHROMA = np.array(list(COLOURS.values()), np.float32) @ PLANE.T  # [8, 2]
STRENGTH = (CHROMA**2).sum(axis=1)  # [8]

FAINT = 25.0  # chroma below this is background, in RGB units
CLEAR = 20.0**2  # a pixel counts for a colour if every other colour explains it worse by this much
MIX_PRICE = 0.5  # of the error without mixing; mixed pixels are rare, so that orange is not taken for red on yellow
OVERFULL = 1.15  # the largest coverage that noise can cause
SOLID = 0.25  # smallest coverage of a pixel that belongs to an object
# Shares of the height squared, mean over frames: the smallest object of the world has 0.02, of which 30% may be hidden.
MIN_MASS = 0.005
MIN_PART = 0.003
MIN_PART_SHARE = 0.12  # of its colour's mass
REACH = 2  # pixels that a soft border extends beyond SOLID
EIGHT = np.zeros((3, 3, 3), bool)  # the eight neighbours within a frame
EIGHT[1] = True
MATCH = 0.5  # share of the background's variance that stripes must explain
LEVEL = {"black": 0.0, "gray": 128.0, "white": 255.0}
BAND_SPREAD = 30.0  # gray levels; stripes and checks (90 and 200) have 55, blurred ones less


@dataclasses.dataclass(frozen=True)
class Layer:
  """One colour of a clip.

  Attributes:
    colour: index into COLOUR_NAMES.
    cover: [T, H, W] share of each pixel, noise included: a little below 0 and above 1.
    near: [T, H, W], True on the object and its soft border.
    parts: number of disconnected pieces in a typical frame.
  """

  colour: int
  cover: np.ndarray
  near: np.ndarray
  parts: int


def chroma(clip: np.ndarray) -> np.ndarray:
  """[T, H, W, 2] from RGB [T, H, W, 3]."""
  return clip @ PLANE.T


def layers(clip: np.ndarray) -> list[Layer]:
  """The colours of a clip [T, H, W, 3], float in [0, 255], that cover enough to be an object, largest first."""
  u = chroma(clip)
  T, H, W, _ = u.shape
  strong = (u**2).sum(axis=-1) > FAINT**2
  unit = T * H * H
  found = _palette(u[strong], unit)
  covers = _unmix(u, strong, found)
  union = strong & (sum((cover for cover in covers), np.zeros((T, H, W), np.float32)) > SOLID)
  places = ndimage.label(union, EIGHT)[0] if found else None  # pyright: ignore[reportIndexIssue]  SciPy's stubs are narrower than its functions
  out = []
  for colour, cover in zip(found, covers, strict=True):
    solid = union & (cover > SOLID)
    keep, parts = _parts(solid, cover, places, H * H)  # pyright: ignore[reportArgumentType]  SciPy's stubs are narrower than its functions
    if parts:
      near = ndimage.binary_dilation(keep, EIGHT, iterations=REACH)
      out.append(Layer(colour, cover * near, near, parts))
  return sorted(out, key=lambda layer: -layer.cover.sum())


def _errors(u: np.ndarray, colour: int) -> tuple[np.ndarray, np.ndarray]:
  """Coverage of pixels of chroma `u` [N, 2] by one colour, and the remaining squared error: [N] each."""
  cover = np.clip(u @ CHROMA[colour] / STRENGTH[colour], 0.0, OVERFULL)
  return cover, ((u - cover[:, None] * CHROMA[colour]) ** 2).sum(axis=1)


def _mixture(u: np.ndarray, a: int, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Coverages by two colours that give chroma `u` [N, 2] exactly, and where they are possible: [N] each."""
  shares = u @ np.linalg.inv(CHROMA[[a, b]])
  possible = (shares > 0.05).all(axis=1) & (shares.sum(axis=1) < OVERFULL)
  return shares[:, 0], shares[:, 1], possible


def _palette(u: np.ndarray, unit: float) -> list[int]:
  """Colours that explain strong pixels `u` [N, 2]; `unit` is the number of pixels in height^2, all frames together."""
  if len(u) < MIN_MASS * unit:
    return []
  cover, error = (np.stack(part) for part in zip(*(_errors(u, c) for c in range(len(CHROMA))), strict=True))  # [8, N]
  votes = np.bincount(error.argmin(axis=0), weights=(u**2).sum(axis=1), minlength=len(CHROMA))
  likely = [int(c) for c in np.argsort(-votes)[:5] if votes[c] > 0.002 * votes.sum()]
  single = min(likely, key=lambda c: error[c].sum())

  def mass(colour: int, others: list[int]) -> float:
    """Mean coverage by `colour` where all others are clearly worse."""
    clear = np.min(error[others], axis=0) - error[colour] > CLEAR
    return float(cover[colour][clear].sum() / unit)

  def price(pair: tuple[int, int]) -> float:
    alone = np.minimum(error[pair[0]], error[pair[1]])
    return float(np.where(_mixture(u, *pair)[2], MIX_PRICE * alone, alone).sum())

  found = [single]
  if len(likely) > 1:
    pair = list(min(itertools.combinations(likely, 2), key=price))
    if min(mass(pair[0], pair[1:]), mass(pair[1], pair[:1])) > MIN_MASS:
      found = pair
  for colour in likely:
    if colour not in found:
      between = np.zeros(len(u), bool)
      for pair in itertools.combinations(found, 2):
        between |= _mixture(u, *pair)[2]
      clear = (np.min(error[found], axis=0) - error[colour] > CLEAR) & ~between
      if cover[colour][clear].sum() / unit > MIN_MASS:
        found.append(colour)
  return found


def _unmix(u: np.ndarray, strong: np.ndarray, found: list[int]) -> list[np.ndarray]:
  """Coverage [T, H, W] of each of the colours `found`."""
  if not found:
    return []
  if len(found) == 1:
    return [u @ CHROMA[found[0]] / STRENGTH[found[0]]]
  pixels = u[strong]
  single = [_errors(pixels, c) for c in found]
  error = np.stack([e for _, e in single])
  best = error.argmin(axis=0)
  shares = np.where(best == np.arange(len(found))[:, None], np.stack([s for s, _ in single]), 0.0)
  for i, j in itertools.combinations(range(len(found)), 2):
    first, second, possible = _mixture(pixels, found[i], found[j])
    possible &= (error.min(axis=0) > CLEAR / 4) & ((best == i) | (best == j))
    shares[i, possible], shares[j, possible] = first[possible], second[possible]
  # Faint pixels keep their (signed) noise, so that masses are unbiased, and are assigned to the nearest colour.
  faint = u @ (CHROMA[found] / STRENGTH[found, None]).T
  out = []
  for k in range(len(found)):
    cover = faint[..., k].copy()
    cover[strong] = shares[k]
    out.append(cover)
  reach = np.stack([ndimage.uniform_filter(np.where(strong, cover, 0.0), (1, 5, 5)) for cover in out]).argmax(axis=0)  # pyright: ignore[reportArgumentType]  SciPy's stubs are narrower than its functions
  return [np.where(strong | (reach == k), cover, 0.0) for k, cover in enumerate(out)]


def _parts(solid: np.ndarray, cover: np.ndarray, places: np.ndarray, unit: float) -> tuple[np.ndarray, int]:
  """`solid` without specks, and the typical number of parts per frame.

  `places` labels connected regions of all colours together, so that an object which the one in front cuts in two is one part.
  """
  labels = np.where(solid, places, 0)
  T = len(labels)
  mass = np.bincount(labels.ravel(), weights=cover.ravel())
  frame = np.zeros(len(mass), int)
  frame[labels.ravel()] = np.repeat(np.arange(T), labels[0].size)
  mass[0] = 0.0
  mass = mass / unit
  total = np.bincount(frame, weights=mass, minlength=T)
  large = (mass > MIN_PART) & (mass > MIN_PART_SHARE * total[frame])
  count = np.bincount(frame[large], minlength=T)
  if total.mean() < MIN_MASS:
    return solid & False, 0
  return large[labels], int(round(float(np.median(count))))


def background(clip: np.ndarray, objects: list[Layer]) -> int:
  """Index into BACKGROUNDS of what is behind the objects of a clip [T, H, W, 3]; -1 if they cover everything."""
  gray = clip.mean(axis=-1)
  hidden = np.zeros(gray.shape, bool)
  for layer in objects:
    hidden |= layer.near
  shown = np.where(hidden, 0.0, 1.0)
  count = shown.sum(axis=0)
  seen = count > 0
  if seen.mean() < 0.05:
    return -1
  plate = (gray * shown).sum(axis=0) / np.maximum(count, 1.0)
  values = plate[seen]
  if values.std() < BAND_SPREAD:
    return min((abs(float(np.median(values)) - level), BACKGROUNDS.index(name)) for name, level in LEVEL.items())[1]
  centred = np.where(seen, plate - values.mean(), 0.0)
  explained = 0.0
  for axis in (0, 1):
    n = seen.sum(axis=axis)
    explained = max(explained, float((centred.sum(axis=axis) ** 2 / np.maximum(n, 1)).sum() / (centred**2).sum()))
  return BACKGROUNDS.index("striped" if explained > MATCH else "checkered")
