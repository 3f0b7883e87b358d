"""Scenes of moving_shapes: what a caption's objects do, as closed forms of time.

Lengths are in units of the frame's height, x runs from 0 to `aspect` (width over height), y downwards from 0 to 1, times
in seconds from 0 to CLIP_SECONDS: frame k of a clip at rate f shows time k / f. Every draw comes from a generator seeded
by (seed, index, stream), so a scene is a function of those and the options.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ivid.moving_shapes import grammar, visibility
from ivid.moving_shapes import outlines as shapes
from ivid.moving_shapes.grammar import Attributes
from ivid.spec.errors import UserError

CLIP_SECONDS = 128 / 24
DIAMETER = ((0.20, 0.25), (0.40, 0.55))  # of small, large: at the middle of the clip
# Lower ends are a little above the world's third, half and factor of 2, so that a clip of 16 frames, which ends
# one frame short of CLIP_SECONDS, still shows that much.
TRAVEL = (0.36, 0.80)  # of the frame's width or height
TURN = (0.54, 1.0)  # turns
GROWTH = (2.12, 2.5)
HOP = (0.20, 0.45)  # height of a bounce
HOPS = (1.6, 2.6)  # bounces in a clip; every half one changes direction
CELL = (1 / 6, 1 / 4)  # width of a stripe or check
MARGIN = 0.01
VISIBLE = 0.70
SLACK = 0.02  # visibility is estimated on a grid of points
TRIES = 30
MIN_ASPECT = 1.0

_UPWARDS = np.array([0, 1], np.float32)
_BOX = shapes.BOX.tolist()
MOVES = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1)}


class Scene(NamedTuple):
  """A scene as plain arrays (a pytree); the leading axis of the objects' entries is 2, the second object in front."""

  aspect: np.ndarray  # []
  background: np.ndarray  # [] index into BACKGROUNDS
  bands: np.ndarray  # [2] 1 where the background alternates along x, y
  cell: np.ndarray  # [] width of a stripe or check
  phase: np.ndarray  # [2] in cells
  present: np.ndarray  # [2] 1 or 0
  size: np.ndarray  # [2]
  colour: np.ndarray  # [2]
  shape: np.ndarray  # [2]
  motion: np.ndarray  # [2]
  start: np.ndarray  # [2, 2] x, y at time 0, on the ground where the object bounces
  velocity: np.ndarray  # [2, 2] per second
  hop: np.ndarray  # [2] height of a bounce
  hop_rate: np.ndarray  # [2] bounces per second
  hop_phase: np.ndarray  # [2] bounces
  middle: np.ndarray  # [2] diameter at the middle of the clip
  growth: np.ndarray  # [2] of log diameter, per second
  turn: np.ndarray  # [2] radians per second


def num_objects(scene: Scene) -> int:
  return int(scene.present.sum())


def attributes(scene: Scene) -> Attributes:
  """What the scene shows, in the words of the grammar."""
  columns = (scene.size, scene.colour, scene.shape, scene.motion)
  objects = tuple(grammar.Object(*(int(column[i]) for column in columns)) for i in range(num_objects(scene)))
  return Attributes(objects, int(scene.background))


def position(scene: Scene, t, xp=np):
  """Where the objects' origins are at times t [T]: [T, 2 objects, 2]."""
  t = xp.asarray(t, xp.float32)[:, None]
  beat = scene.hop_rate * t + scene.hop_phase
  beat = beat - xp.floor(beat)
  height = scene.hop * 4.0 * beat * (1.0 - beat)  # [T, 2], a parabola from ground to ground
  place = scene.start + scene.velocity * t[..., None]
  return place - height[..., None] * _UPWARDS


def diameter(scene: Scene, t, xp=np):
  """Diameters at times t [T]: [T, 2]."""
  t = xp.asarray(t, xp.float32)[:, None]
  return scene.middle * xp.exp(scene.growth * (t - CLIP_SECONDS / 2))


def angle(scene: Scene, t, xp=np):
  """Clockwise turn from upright at times t [T], radians: [T, 2]."""
  return scene.turn * xp.asarray(t, xp.float32)[:, None]


def make_scene(
  seed: int,
  index: int,
  *,
  aspect: float = 5 / 3,
  said: Attributes | None = None,
  two_objects: bool = False,
  held_out: bool = False,
  stream: int = 0,
) -> Scene:
  """The scene number `index`: of the attributes `said`, or else of random ones.

  Args:
    aspect: the frame's width over its height.
    two_objects, held_out: which attributes to draw, see grammar.sample_attributes.
    stream: separates draws of the same seed and index (training, evaluation, frames of packed images).

  Raises:
    UserError: the frame is higher than wide, so the objects have no room.
  """
  if aspect < MIN_ASPECT:
    raise UserError(f"moving_shapes: width/height={aspect:g}: expected {MIN_ASPECT:g} or more (nearest: a square frame)")
  rng = np.random.default_rng([seed, index, stream])
  if said is None:
    said = grammar.sample_attributes(rng, two_objects, held_out)
  if len(said.objects) == 1:
    move = _kinematics(said.objects[0], aspect, rng, rng.random())
    return _scene(said, aspect, rng, [move], [_start(said.objects[0], move, aspect, rng.random(2))])
  for attempt in range(TRIES):
    # Later tries draw smaller objects and shorter ways, which find room more easily.
    ease = rng.random() * (1.0 - attempt / TRIES)
    moves = [_kinematics(item, aspect, rng, ease) for item in said.objects]
    starts = [_start(item, move, aspect, rng.random(2)) for item, move in zip(said.objects, moves, strict=True)]
    scene = _scene(said, aspect, rng, moves, starts)
    if visible_share(scene, times=16, points=10) >= VISIBLE and visible_share(scene) >= VISIBLE + SLACK:
      return scene
  return _most_visible(said, aspect, rng)


class _Move(NamedTuple):
  """All properties of an object except its place, named as in Scene."""

  middle: float
  velocity: tuple[float, float] = (0.0, 0.0)
  hop: float = 0.0
  hop_rate: float = 0.0
  hop_phase: float = 0.0
  growth: float = 0.0
  turn: float = 0.0


def _within(ends: tuple[float, float], share: float) -> float:
  return ends[0] + (ends[1] - ends[0]) * share


def _kinematics(item: grammar.Object, aspect: float, rng: np.random.Generator, ease: float) -> _Move:
  """A random move of the object. `ease` in [0, 1] scales size and ways: 0 gives the smallest."""
  size, motion = _within(DIAMETER[item.size], rng.random() * min(1.0, 2 * ease)), grammar.MOTIONS[item.motion]
  left, top, right, bottom = (end * size for end in _BOX[item.shape])
  if motion in MOVES:
    step = MOVES[motion]
    length, extent = (aspect, right - left) if step[0] else (1.0, bottom - top)
    longest = min(TRAVEL[1] * length, length - 2 * MARGIN - extent)
    way = _within((TRAVEL[0] * length, longest), ease)
    return _Move(size, velocity=(step[0] * way / CLIP_SECONDS, step[1] * way / CLIP_SECONDS))
  if motion == "spins":
    turn = _within(TURN, rng.random()) * 2 * np.pi / CLIP_SECONDS
    return _Move(size, turn=turn * (-1, 1)[int(rng.integers(2))])
  if motion in ("grows", "shrinks"):
    return _Move(size, growth=math.log(_within(GROWTH, ease)) / CLIP_SECONDS * (1 if motion == "grows" else -1))
  if motion == "bounces":
    hop = _within((HOP[0], min(HOP[1], 1 - 2 * MARGIN - (bottom - top))), ease)
    return _Move(size, hop=hop, hop_rate=_within(HOPS, rng.random()) / CLIP_SECONDS, hop_phase=rng.random())
  return _Move(size)


def _start(item: grammar.Object, move: _Move, aspect: float, share: Sequence[float] | np.ndarray) -> tuple[float, float]:
  """Where the object starts: at `share` (in [0, 1], x and y) of the area from which it stays in view."""
  largest = move.middle * float(np.exp(abs(move.growth) * CLIP_SECONDS / 2)) if move.growth else move.middle
  reach = float(shapes.REACH[item.shape])
  box = (-reach, -reach, reach, reach) if move.turn else _BOX[item.shape]
  start = []
  for axis, (length, rise) in enumerate(((aspect, 0.0), (1.0, move.hop))):
    way = move.velocity[axis] * CLIP_SECONDS
    first = MARGIN - box[axis] * largest - min(way, 0.0) + rise
    last = max(first, length - MARGIN - box[2 + axis] * largest - max(way, 0.0))
    start.append(first + (last - first) * float(share[axis]))
  return start[0], start[1]


def _scene(said: Attributes, aspect: float, rng: np.random.Generator, moves: list[_Move], starts: list[tuple[float, float]]) -> Scene:
  name = grammar.BACKGROUNDS[said.background]
  bands = {"striped": ((1, 0), (0, 1))[int(rng.integers(2))], "checkered": (1, 1)}.get(name, (0, 0))
  objects = (*said.objects, said.objects[0])[:2]
  per_object = {field: np.array([getattr(item, field) for item in objects], np.int32) for field in ("size", "colour", "shape", "motion")}
  first, second = (moves * 2)[:2]
  return Scene(
    aspect=np.float32(aspect),  # pyright: ignore[reportArgumentType]  scalars of NumPy are arrays without axes
    background=np.int32(said.background),  # pyright: ignore[reportArgumentType]  scalars of NumPy are arrays without axes
    bands=np.array(bands, np.float32),
    cell=np.float32(rng.uniform(*CELL)),  # pyright: ignore[reportArgumentType]  scalars of NumPy are arrays without axes
    phase=rng.uniform(0, 2, 2).astype(np.float32),
    present=np.array([1, len(said.objects) == 2], np.float32),
    **per_object,
    start=np.array((starts * 2)[:2], np.float32),
    **{field: np.array(pair, np.float32) for field, *pair in zip(_Move._fields, first, second, strict=True)},
  )


def visible_share(scene: Scene, times: int = 128, points: int = 20) -> float:
  """Smallest share, over `times` moments of the clip, of the first object that the second leaves visible."""
  if num_objects(scene) < 2:
    return 1.0
  t = np.arange(times, dtype=np.float32) * (CLIP_SECONDS / times)
  shape = (int(scene.shape[0]), int(scene.shape[1]))
  return 1.0 - visibility.largest_hidden_share(shape, position(scene, t), diameter(scene, t), angle(scene, t), points)


def _most_visible(said: Attributes, aspect: float, rng: np.random.Generator) -> Scene:
  """The smallest objects on the shortest ways, started where a grid of places shows most of the first."""
  moves = [_kinematics(item, aspect, rng, 0.0) for item in said.objects]
  state = rng.bit_generator.state
  best, best_share = None, -1.0
  grid = [(x, y) for x in (0.0, 1.0, 0.5, 0.25, 0.75) for y in (0.0, 1.0, 0.5)]
  for first in grid:
    for second in grid:
      rng.bit_generator.state = state
      starts = [_start(item, move, aspect, at) for item, move, at in zip(said.objects, moves, (first, second), strict=True)]
      scene = _scene(said, aspect, rng, moves, starts)
      share = visible_share(scene)
      if share > best_share:
        best, best_share = scene, share
      if share >= VISIBLE + SLACK:
        return scene
  return best  # pyright: ignore[reportReturnType]  shares are 0 or more, so the first is the best at first
