"""Drawing: exact areas, one distribution at all sizes, and the same pictures from numpy and inside jit."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from ivid.moving_shapes import grammar
from ivid.moving_shapes import outlines as shapes
from ivid.moving_shapes import scene as moving_shapes
from ivid.moving_shapes.draw import LEVELS, draw, rounded
from ivid.moving_shapes.grammar import Attributes, Object
from ivid.moving_shapes.scene import make_scene
from ivid.programs import Program

TIMES = np.arange(0, 16, 5) / 3
ASPECT = 5 / 3


def upright(shape: int, *, background: int = 0, diameter: float = 0.5):
  """A still shape in the middle of a square frame, white on black by default (cyan for the mask's sake)."""
  said = Attributes((Object(1, 4, shape, grammar.MOTIONS.index("stays still")),), background)
  scene = make_scene(0, 0, said=said, aspect=1.0)
  return scene._replace(start=np.full((2, 2), 0.5, np.float32), middle=np.full(2, diameter, np.float32))


def boxes(picture: np.ndarray, factor: int) -> np.ndarray:
  T, H, W, C = picture.shape
  return picture.reshape(T, H // factor, factor, W // factor, factor, C).mean(axis=(2, 4))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_mean_of_the_big_drawing_is_the_small_one(factor):
  for index in range(12):
    scene = make_scene(5, index, two_objects=index % 2 == 0)
    small = draw(scene, times=TIMES, height=24, width=40)
    error = np.abs(small - boxes(draw(scene, times=TIMES, height=24 * factor, width=40 * factor), factor))
    assert error.mean() < 0.1 and error.max() < (0.1 if factor <= 4 else 12)


def shoelace(shape: int) -> float:
  if shapes.IS_ROUND[shape]:
    return np.pi * (0.25 - float(shapes.INNER[shape]) ** 2)
  ax, ay, bx, by = shapes.EDGES[shape].T.astype(float)
  return float(np.sum(ax * by - bx * ay) / 2)


@pytest.mark.parametrize("shape", range(32), ids=grammar.SHAPES)
def test_areas_are_exact(shape):
  # Cyan has red 40 of 255 on black: the mean of the red channel is the area.
  picture = draw(upright(shape), times=[0.0], height=24, width=24)
  area = picture[..., 0].mean() / 40
  np.testing.assert_allclose(area, shoelace(shape) * 0.25, rtol=2e-3)
  grid = (np.stack(np.meshgrid(*[(np.arange(400) + 0.5) / 400 - 0.5] * 2), -1)) * 2
  np.testing.assert_allclose(shapes.contains(shape, grid).mean(), area, atol=2e-3)


def test_shapes_are_pairwise_distinct():
  masks = np.stack([draw(upright(s, diameter=0.9), times=[0.0], height=24, width=24)[0, ..., 1] / 210 for s in range(32)])
  overlap = np.einsum("ahw,bhw->ab", masks, masks)
  area = np.diagonal(overlap)
  likeness = overlap / (area[:, None] + area[None] - overlap) - np.eye(32)
  assert likeness.max() < 0.93, [grammar.SHAPES[i] for i in np.unravel_index(likeness.argmax(), likeness.shape)]


def test_spin_is_exact_in_area_and_moves_clockwise():
  said = Attributes((Object(1, 4, grammar.SHAPES.index("letter F"), grammar.SPINS),), 0)
  scene = make_scene(0, 1, said=said)
  areas = draw(scene, times=np.arange(16) / 3, height=24, width=40)[..., 0].mean(axis=(1, 2))
  np.testing.assert_allclose(areas, areas[0], rtol=2e-3)
  quarter = upright(said.objects[0].shape)._replace(turn=np.full(2, np.pi / 2, np.float32))
  before, after = draw(quarter, times=[0.0, 1.0], height=24, width=24)
  np.testing.assert_allclose(after, np.rot90(before, -1), atol=0.05)


@functools.cache
def jitted(height: int, width: int, size: tuple[int, int]):
  def fn(scene, times, top, left):
    return draw(scene, times=times, height=height, width=width, crop=(top, left, *size), xp=jnp)

  return Program("draw", fn).jit()


def test_numpy_and_jit_agree():
  height, width, size = 48, 80, (24, 40)
  for index in range(16):
    scene = make_scene(9, index, two_objects=index % 2 == 0)
    corner = (height // 4, (index * width // 32))
    want = draw(scene, times=TIMES[:2], height=height, width=width, crop=(*corner, *size))
    got = jitted(height, width, size)(scene, TIMES[:2], *corner)
    # 1e-3 of the range from black to white
    np.testing.assert_allclose(np.asarray(got), want, atol=0.255)


def test_a_crop_is_a_part_of_the_whole():
  scene = make_scene(2, 4, two_objects=True)
  whole = draw(scene, times=TIMES, height=48, width=80)
  np.testing.assert_allclose(draw(scene, times=TIMES, height=48, width=80, crop=(8, 20, 16, 30)), whole[:, 8:24, 20:50], atol=0.05)


def test_frames_that_are_not_square_pixels_squash():
  """A frame of another aspect than the scene's is the same picture, stretched: the 64x64 base of a 5:3 clip."""
  scene = make_scene(2, 5, two_objects=True)
  wide = draw(scene, times=TIMES, height=96, width=160)
  np.testing.assert_allclose(draw(scene, times=TIMES, height=96, width=32), wide.reshape(4, 96, 32, 5, 3).mean(axis=3), atol=12)


def test_colours_backgrounds_and_front():
  for colour, rgb in enumerate(grammar.COLOURS.values()):
    scene = upright(1)._replace(colour=np.array([colour, colour], np.int32))
    np.testing.assert_allclose(draw(scene, times=[0.0], height=24, width=24)[0, 12, 12], rgb, atol=0.01)
  for background in range(5):
    picture = draw(upright(0, background=background), times=[0.0], height=96, width=96)[0]
    corner = picture[:8, :, :]
    assert np.ptp(corner, axis=-1).max() < 0.01  # without colour
    assert abs(corner.min() - LEVELS[background].min()) < 0.01 and abs(corner.max() - LEVELS[background].max()) < 0.01
  both = upright(0)._replace(present=np.ones(2, np.float32), colour=np.array([0, 5], np.int32), shape=np.array([0, 1], np.int32))
  np.testing.assert_allclose(draw(both, times=[0.0], height=24, width=24)[0, 12, 12], grammar.COLOURS["blue"], atol=0.01)


def test_bytes():
  assert rounded(np.array([0.0, 127.4, 127.6, 255.0, -1e-4])).tolist() == [0, 127, 128, 255, 0]


def test_a_moment_of_a_growing_scene_keeps_small_below_large():
  assert moving_shapes.DIAMETER[0][1] * moving_shapes.GROWTH[1] ** 0.25 < moving_shapes.DIAMETER[1][0] / moving_shapes.GROWTH[1] ** 0.25
