"""Tells whether a clip shows what its moving_shapes prompt says: it observes the pixels, then compares.

`observe` never reads the prompt. `score` compares what it (or `observe_image` of a single picture) saw with the prompt, attribute by
attribute.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from ivid.moving_shapes import grammar
from ivid.moving_shapes.coverage import EIGHT, SOLID, Layer, background, layers
from ivid.moving_shapes.grammar import BACKGROUNDS, COLOUR_NAMES, FIRST_LETTER, LARGE, MOTIONS, SHAPES, SIZES, SMALL, Attributes
from ivid.moving_shapes.outline_fits import Fit, fit_spinning, fit_upright, lines
from ivid.moving_shapes.templates import Patch
from ivid.spec.errors import UserError
from ivid.spec.stage import Filter
from ivid.video.resize import resize

ATTRIBUTES = ("count", "colour", "shape", "size", "motion", "background")
IMAGE_ATTRIBUTES = tuple(name for name in ATTRIBUTES if name != "motion")
PLAIN_SHAPE, LETTER = "plain_shape", "letter"  # scores for the two kinds of shapes separately
ROWS, FRAMES = 48, 16  # larger and longer clips are shrunk to these
LETTER_ROWS = 48  # with fewer rows, letters cannot be told apart
MIN_ROWS, MIN_FRAMES = 24, 8
UNCLEAR = -1

# The world's limits, with room for a model's inaccuracy: diameters in heights, ways in widths or heights.
SMALLEST, MIDDLE, LARGEST = 0.14, 0.32, 0.70
MOVED, STILL = 0.24, 0.12
GREW, SAME = np.log(1.6), np.log(1.3)
TURN_HEIGHT = 0.06  # height of a bounce; less is a wobble
LONGEST = 1.0  # diameter, in heights
WOBBLE = 0.06  # heights
STEADY = 1.04  # margin for upright shapes, which fit noise better because they may move from frame to frame
SPIN_CHANGE = 0.03  # variance over time of what spins on the spot, over its area
BLURS = (0.0, 0.75)  # pixels: for a sharp clip, and for one of a half-trained model
SHARP = 0.02  # a fit with a smaller error needs no second look


@dataclasses.dataclass(frozen=True)
class Seen:
  """One object of a clip: indices into SIZES, COLOUR_NAMES, SHAPES and MOTIONS, UNCLEAR (-1) for what is none of them.

  Attributes:
    motion: None in a single picture.
    diameter: at the middle of the clip, in heights.
    error: what the shape leaves unexplained, as a share of the object's square.
  """

  size: int
  colour: int
  shape: int
  motion: int | None
  diameter: float
  error: float

  @property
  def words(self) -> tuple[str, ...]:
    """Size, colour, shape and, of a clip, motion."""
    tables = (SIZES, COLOUR_NAMES, SHAPES, MOTIONS)
    indices = (self.size, self.colour, self.shape, self.motion)
    return tuple("unclear" if i == UNCLEAR else table[i] for i, table in zip(indices, tables, strict=True) if i is not None)


@dataclasses.dataclass(frozen=True)
class Observation:
  """What a clip or a single picture shows.

  Attributes:
    count: objects, fragments included.
    objects: one per colour, largest first.
    background: index into BACKGROUNDS, or UNCLEAR.
    letters: whether there are enough rows to tell letters apart.
    still: whether it is a single picture, which has no motion.
  """

  count: int
  objects: tuple[Seen, ...]
  background: int
  letters: bool
  still: bool = False

  @property
  def text(self) -> str:
    """The words of the caption's template, whatever the count."""
    words = " and ".join(f"{'an' if item.size == UNCLEAR else 'a'} {' '.join(item.words)}" for item in self.objects) or "nothing"
    behind = "unclear" if self.background == UNCLEAR else BACKGROUNDS[self.background]
    pieces = "" if self.count == len(self.objects) else f" ({self.count} pieces)"
    return f"{words}{pieces} on a {behind} background"


def observe(clip: np.ndarray) -> Observation:
  """Describes what a whole clip (5.33 s) of moving_shapes shows.

  Args:
    clip: uint8 [T, H, W, 3], at least MIN_FRAMES frames and MIN_ROWS rows; an array, or something that is indexed like one.

  Raises:
    UserError: the type or shape is wrong, or the clip is too short or too small.
  """
  check(clip)
  time = np.arange(len(clip))[_frames(len(clip))] / len(clip)
  return observe_layers(clip, lambda layer, hidden: _seen(layer, hidden, time))


def observe_layers(clip: np.ndarray, see: Callable[[Layer, np.ndarray], Seen], *, still: bool = False) -> Observation:
  """Counts, backgrounds and what `see` says of each colour of a clip, given its layer and where others may be in front [T, H, W]."""
  small = _shrink(clip)
  found = layers(small)
  nothing = np.zeros(small.shape[:3], bool)
  hidden = [np.any([other.cover > SOLID / 2 for other in found if other is not layer] or [nothing], axis=0) for layer in found]
  objects = tuple(map(see, found, hidden))
  return Observation(sum(layer.parts for layer in found), objects, background(small, found), clip.shape[1] >= LETTER_ROWS, still)


def check(clip: np.ndarray) -> None:
  """Raises UserError if `observe` cannot judge a clip: its type or shape is wrong, or it is too short or too small."""
  if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3:
    raise UserError(f"clip of {clip.dtype} {list(clip.shape)}: expected uint8 [frames, height, width, 3]")
  if len(clip) < MIN_FRAMES or clip.shape[1] < MIN_ROWS or clip.shape[2] < clip.shape[1]:
    size = "x".join(map(str, clip.shape[:3]))
    raise UserError(f"clip {size}: expected {MIN_FRAMES} frames and {MIN_ROWS} rows or more, at least as wide as high")


def score(seen: Observation, said: Attributes) -> dict[str, bool | None]:
  """Whether each of ATTRIBUTES agrees with the prompt (for both objects if it has two), and whether "all" of them do.

  Objects are matched so that most attributes agree, colours first. If the clip is too small for letters, any letter counts as any other. A
  single picture has IMAGE_ATTRIBUTES, and PLAIN_SHAPE and LETTER for the shapes of each kind, which are None if the prompt has none.
  """
  votes = _matched(seen, said)
  out: dict[str, bool | None] = {"count": seen.count == len(said.objects)}
  for name in ATTRIBUTES[1:-1]:
    out[name] = all(vote.get(name, False) for vote in votes)
  out["background"] = seen.background == said.background
  if not seen.still:
    return out | {"all": all(out.values())}
  del out["motion"]
  out["all"] = all(out.values())
  for kind in (PLAIN_SHAPE, LETTER):
    mine = [
      vote.get("shape", False) for vote, item in zip(votes, said.objects, strict=True) if (item.shape >= FIRST_LETTER) == (kind == LETTER)
    ]
    out[kind] = all(mine) if mine else None
  return out


def _agree(item: Seen, asked: grammar.Object, letters: bool) -> dict[str, bool]:
  shape = item.shape == asked.shape or (not letters and min(item.shape, asked.shape) >= FIRST_LETTER)
  return dict(colour=item.colour == asked.colour, shape=shape, size=item.size == asked.size, motion=item.motion == asked.motion)


def _matched(seen: Observation, said: Attributes) -> list[dict[str, bool]]:
  """Which attributes of each object in the prompt agree with the seen object that is matched to it; none if there is no such object."""

  def votes(choice: tuple[Seen | None, ...]) -> list[dict[str, bool]]:
    return [{} if item is None else _agree(item, asked, seen.letters) for item, asked in zip(choice, said.objects, strict=True)]

  def agreement(choice: tuple[Seen | None, ...]) -> float:
    return sum(sum(vote.values()) + 0.5 * vote["colour"] + 0.1 for vote in votes(choice) if vote)

  return votes(max(itertools.permutations([*seen.objects, *[None] * len(said.objects)], len(said.objects)), key=agreement))


def _frames(count: int) -> np.ndarray:
  """The indices of the frames that are examined."""
  return np.unique(np.arange(FRAMES) * count // FRAMES) if count > FRAMES else np.arange(count)


def _shrink(clip: np.ndarray) -> np.ndarray:
  """float32 [T, h, w, 3] of at most FRAMES frames and ROWS rows; from a clip in a file, only these are read."""
  _, H, W, _ = clip.shape
  rows = min(H, ROWS)
  columns = round(W * rows / H)
  return np.stack([resize(frame, rows, columns, Filter.BOX).astype(np.float32) for frame in clip[_frames(len(clip))]])


def touched(layer: Layer, hidden: np.ndarray) -> np.ndarray:
  """[T]: whether other objects, at `hidden` [T, H, W], touch the layer."""
  return (ndimage.binary_dilation(hidden, EIGHT) & (layer.near & (layer.cover > SOLID / 2))).any(axis=(1, 2))  # pyright: ignore[reportOperatorIssue, reportReturnType]  NumPy's stubs take an array for a scalar


def _seen(layer: Layer, hidden: np.ndarray, time: np.ndarray) -> Seen:
  """The object of a layer. `hidden` [T, H, W]: where others may be in front."""
  H = hidden.shape[1]
  shown = layer.near.any(axis=(1, 2))
  if shown.sum() < MIN_FRAMES:
    return Seen(UNCLEAR, layer.colour, UNCLEAR, UNCLEAR, 0.0, 1.0)
  patch = cut_out(layer, hidden, time, shown)  # pyright: ignore[reportArgumentType]  NumPy's stubs take an array for a scalar
  contact = touched(layer, hidden)[shown]
  upright = best_fit(fit_upright, patch, H, contact)
  fit = upright
  if _changes(patch) > SPIN_CHANGE and _stays(patch, H):
    spinning = best_fit(fit_spinning, patch, H, contact)
    fit = spinning if spinning.error < STEADY * upright.error else upright
  motion = grammar.SPINS if fit.turns else _motion(fit, patch.time, hidden.shape)
  middle = float(np.exp(np.interp(0.5, patch.time, lines(np.log(fit.diameter)[None], patch.time)[0]))) / H
  return Seen(size_of(middle), layer.colour, fit.shape, motion, middle, fit.error)


def size_of(diameter: float, middle: float = MIDDLE) -> int:
  """Index into SIZES of a diameter in heights, UNCLEAR if the world has no such size. `middle`: the border between small and large."""
  return UNCLEAR if not SMALLEST < diameter < LARGEST else SMALL if diameter < middle else LARGE


def best_fit(fit: Callable[..., Fit], patch: Patch, rows: int, contact: np.ndarray) -> Fit:
  """The better of two fits, for a sharp and for a soft clip. The second is only made if the first leaves an error."""
  first = fit(patch, BLURS[0], LONGEST * rows, contact)
  return first if first.error < SHARP else min(first, fit(patch, BLURS[1], LONGEST * rows, contact), key=lambda f: f.error)


def cut_out(layer: Layer, hidden: np.ndarray, time: np.ndarray, shown: np.ndarray) -> Patch:
  """The layer cut out in a window of one size for all frames."""
  frames = np.flatnonzero(shown)
  near = layer.near[frames]
  T, H, W = near.shape
  rows, columns = near.any(axis=2), near.any(axis=1)
  top, left = rows.argmax(axis=1), columns.argmax(axis=1)
  h = (H - rows[:, ::-1].argmax(axis=1) - top).max()  # pyright: ignore[reportIndexIssue]  NumPy's stubs take an array for a scalar
  w = (W - columns[:, ::-1].argmax(axis=1) - left).max()  # pyright: ignore[reportIndexIssue]  NumPy's stubs take an array for a scalar
  top, left = np.minimum(top, H - h), np.minimum(left, W - w)
  y, x = top[:, None, None] + np.arange(h)[:, None], left[:, None, None] + np.arange(w)
  k = np.arange(T)[:, None, None]
  cover = layer.cover[frames][k, y, x].astype(np.float32)
  weight = 1.0 - hidden[frames][k, y, x].astype(np.float32)
  return Patch((x + 0.5).astype(np.float32), (y + 0.5).astype(np.float32), cover, weight, time[frames].astype(np.float32))


def _changes(patch: Patch) -> float:
  """Change between neighbouring frames once the object is moved to one place; windows follow the object, to a pixel."""
  return float((patch.weight[1:] * patch.weight[:-1] * np.diff(patch.cover, axis=0) ** 2).sum() / max(patch.cover.sum(), 1.0))


def _way(track: np.ndarray, time: np.ndarray) -> float:
  """The distance that a track [T] covers in a whole clip."""
  line = lines(track[None], time)[0]
  return float((line[-1] - line[0]) / (time[-1] - time[0]))


def _stays(patch: Patch, rows: int) -> bool:
  """Whether the centroid stays in place, as that of a spinning object does. This is generous, since another object may hide a part."""
  _, *tracks = patch.moments
  return max(np.median(np.abs(track - np.median(track))) for track in tracks) < WOBBLE * rows


def _motion(fit: Fit, time: np.ndarray, shape: tuple[int, ...]) -> int:
  """Index into MOTIONS of an upright object's track."""
  _, H, W = shape
  x, y, growth = _way(fit.x / W, time), _way(fit.y / H, time), _way(np.log(fit.diameter), time)
  if _turns(fit.y / H) >= 2 and abs(x) < MOVED and abs(growth) < GREW:
    return MOTIONS.index("bounces")
  if abs(growth) > GREW and max(abs(x), abs(y)) < MOVED:
    return MOTIONS.index("grows" if growth > 0 else "shrinks")
  if abs(growth) < GREW and abs(x) > MOVED and abs(y) < abs(x) / 2:
    return MOTIONS.index("moves right" if x > 0 else "moves left")
  if abs(growth) < GREW and abs(y) > MOVED and abs(x) < abs(y) / 2:
    return MOTIONS.index("moves down" if y > 0 else "moves up")
  if abs(growth) < SAME and max(abs(x), abs(y)) < STILL and max(np.ptp(fit.x) / W, np.ptp(fit.y) / H) < 2 * STILL:
    return MOTIONS.index("stays still")
  return UNCLEAR


def _turns(y: np.ndarray) -> int:
  """Changes of direction of a track, each after a distance of at least TURN_HEIGHT; single frames do not count."""
  y = ndimage.median_filter(y, 3, mode="nearest")
  turns, low, high, going = 0, y[0], y[0], 0
  for value in y[1:]:
    low, high = min(low, value), max(high, value)
    if going >= 0 and high - value > TURN_HEIGHT:
      turns, going, low, high = turns + (going > 0), -1, value, value
    elif going <= 0 and value - low > TURN_HEIGHT:
      turns, going, low, high = turns + (going < 0), 1, value, value
  return turns
