"""The world keeps the rules of its description, over many scenes."""

import itertools

import numpy as np
import pytest

from ivid.moving_shapes import grammar
from ivid.moving_shapes import outlines as shapes
from ivid.moving_shapes import scene as moving_shapes
from ivid.moving_shapes.grammar import Attributes, Object
from ivid.moving_shapes.scene import CLIP_SECONDS, Scene, make_scene

ASPECT = 5 / 3
EVERY_FRAME = np.arange(128) / 24
SIXTEEN = np.arange(16) / 3  # the frames of the lowest frame rate


def scenes(count=120, **options):
  return [make_scene(7, index, two_objects=index % 2 == 0, **options) for index in range(count)]


def by_motion(name: str, count=12):
  motion = grammar.MOTIONS.index(name)
  shapes_ = [s for s in range(len(grammar.SHAPES)) if Object(1, 0, s, motion).valid]
  for i in range(count):
    shape = shapes_[i * 5 % len(shapes_)]
    size = grammar.LARGE if shape >= grammar.FIRST_LETTER else i % 2
    yield make_scene(3, i, said=Attributes((Object(size, i % 8, shape, motion),), i % 5))


def corners(scene: Scene, i: int, t: np.ndarray) -> np.ndarray:
  """Corners of object i (of its bounding box where it is round) at times t: [T, n, 2]."""
  shape = int(scene.shape[i])
  left, top, right, bottom = shapes.BOX[shape]
  points = shapes.EDGES[shape, : shapes.NUM_EDGES[shape], :2]
  if shapes.IS_ROUND[shape]:
    points = np.array([(left, 0), (right, 0), (0, top), (0, bottom)])
  turn, size = moving_shapes.angle(scene, t)[:, i, None], moving_shapes.diameter(scene, t)[:, i, None]
  x, y = points[:, 0] * size, points[:, 1] * size
  turned = np.stack([np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y], axis=-1)
  return turned + moving_shapes.position(scene, t)[:, None, i]


@pytest.mark.parametrize("aspect", [ASPECT, 1.0])
def test_objects_stay_in_view(aspect):
  for scene in scenes(aspect=aspect):
    for i in range(moving_shapes.num_objects(scene)):
      points = corners(scene, i, EVERY_FRAME)
      assert points.min() > 0 and points[..., 0].max() < aspect and points[..., 1].max() < 1


@pytest.mark.parametrize("aspect", [ASPECT, 1.0])
def test_the_first_object_stays_visible(aspect):
  shares = [moving_shapes.visible_share(scene, times=128, points=40) for scene in scenes(100, aspect=aspect)]
  assert min(shares) >= 0.70
  assert min(shares) < 0.95  # overlaps do occur


def test_any_two_motions_find_room():
  for first, second in itertools.product(range(9), range(9)):
    said = Attributes((Object(1, 0, 1, first), Object(1, 1, grammar.SHAPES.index("letter M"), second)), 0)
    if (first + second) % 3 == 0:
      scene = moving_shapes._most_visible(said, 1.0, np.random.default_rng(first))
      assert moving_shapes.visible_share(scene, points=40) >= 0.70
      assert moving_shapes.attributes(scene) == said


@pytest.mark.parametrize("name", ["moves left", "moves right", "moves up", "moves down"])
def test_moves_cross_a_third(name):
  way, length = np.array(moving_shapes.MOVES[name]), ASPECT if name in ("moves left", "moves right") else 1.0
  for scene in by_motion(name):
    place = moving_shapes.position(scene, SIXTEEN)[:, 0]
    assert (place[-1] - place[0]) @ way >= length / 3
    np.testing.assert_allclose(np.diff(place, axis=0), (place[1] - place[0])[None].repeat(15, 0), atol=1e-5)
    assert np.abs((place[-1] - place[0]) @ way[::-1]) < 1e-6


def test_growth_is_two_to_two_and_a_half():
  for name in ("grows", "shrinks"):
    for scene in by_motion(name):
      over_clip = moving_shapes.diameter(scene, [0.0, CLIP_SECONDS])[:, 0]
      ratio = over_clip[1] / over_clip[0] if name == "grows" else over_clip[0] / over_clip[1]
      assert 2.0 <= ratio <= 2.5 + 1e-5
      assert ratio ** (15 / 16) >= 2.0 - 1e-5  # also between the first and the last of 16 frames
      low, high = moving_shapes.DIAMETER[int(scene.size[0])]
      middle = moving_shapes.diameter(scene, [CLIP_SECONDS / 2])[0, 0]
      assert low - 1e-5 <= middle <= high + 1e-5


def test_spins_turn_half_to_once():
  signs = set()
  for scene in by_motion("spins"):
    turn = moving_shapes.angle(scene, [0.0, SIXTEEN[-1], CLIP_SECONDS])[:, 0]
    assert turn[0] == 0 and abs(turn[1]) >= np.pi and abs(turn[2]) <= 2 * np.pi + 1e-5
    signs.add(np.sign(turn[1]))
  assert signs == {-1.0, 1.0}


def test_bounces_change_direction():
  for scene in by_motion("bounces", 30):
    place = moving_shapes.position(scene, EVERY_FRAME)[:, 0]
    assert np.ptp(place[:, 0]) < 1e-6
    turns = np.count_nonzero(np.diff(np.sign(np.diff(place[:, 1]))))
    assert turns >= 2
    assert np.ptp(moving_shapes.position(scene, SIXTEEN)[:, 0, 1]) > 0.1


def test_everything_else_stays_as_it_is():
  for name in grammar.MOTIONS:
    scene = next(by_motion(name))
    if name not in ("spins",):
      assert not moving_shapes.angle(scene, EVERY_FRAME)[:, 0].any()
    if name not in ("grows", "shrinks"):
      assert np.ptp(moving_shapes.diameter(scene, EVERY_FRAME)[:, 0]) < 1e-6
    if name in ("stays still", "spins", "grows", "shrinks"):
      assert np.ptp(moving_shapes.position(scene, EVERY_FRAME)[:, 0], axis=0).max() < 1e-6


def test_background_cells_are_a_sixth_or_wider():
  assert min(float(scene.cell) for scene in scenes(40)) >= 1 / 6


def test_scenes_follow_from_seed_and_index():
  a, b = make_scene(1, 2, two_objects=True), make_scene(1, 2, two_objects=True)
  assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
  for other in (make_scene(1, 3, two_objects=True), make_scene(2, 2, two_objects=True), make_scene(1, 2, two_objects=True, stream=1)):
    assert not np.array_equal(a.start, other.start)
  assert all(grammar.held_out(item) for item in moving_shapes.attributes(make_scene(0, 0, two_objects=True, held_out=True)).objects)


def test_a_high_frame_is_refused():
  with pytest.raises(ValueError, match="width/height=0.5"):
    make_scene(0, 0, aspect=0.5)
