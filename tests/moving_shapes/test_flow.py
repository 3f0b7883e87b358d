"""The flow of drawn clips against what the objects do."""

import numpy as np
import pytest

from ivid.moving_shapes import grammar
from ivid.moving_shapes import scene as moving_shapes
from ivid.moving_shapes.draw import covers, draw
from ivid.moving_shapes.flow import MIXED, flows, owners
from ivid.moving_shapes.grammar import Attributes, Object
from ivid.moving_shapes.scene import make_scene

HEIGHT, WIDTH, TIMES = 48, 80, (1.0, 1.25)


def one(motion, *, aspect=WIDTH / HEIGHT):
  """A large red square."""
  said = Attributes((Object(1, 0, grammar.SHAPES.index("square"), grammar.MOTIONS.index(motion)),), 0)
  return make_scene(0, 0, said=said, aspect=aspect)


@pytest.mark.parametrize("motion", ["moves left", "bounces", "grows", "spins", "stays still"])
def test_a_point_of_an_object_is_followed(motion):
  scene = one(motion)
  (flow,) = flows(scene, times=TIMES, height=HEIGHT, width=WIDTH)
  assert len(flow.rows) > 100
  there, before = (np.stack([x, y], -1) + 0.5 for x, y in ((flow.columns, flow.rows), (flow.from_columns, flow.from_rows)))
  places = moving_shapes.position(scene, TIMES)[:, 0] * HEIGHT  # a pixel is as high as wide
  away, back = (complex_of(points - place) for points, place in ((there, places[1]), (before, places[0])))
  sizes, turns = moving_shapes.diameter(scene, TIMES)[:, 0], moving_shapes.angle(scene, TIMES)[:, 0]
  np.testing.assert_allclose(away / back, sizes[1] / sizes[0] * np.exp(1j * (turns[1] - turns[0])), atol=2e-3)


def complex_of(points):
  return points[:, 0] + 1j * points[:, 1]


def test_a_picture_that_is_squeezed():
  """As wide as high in pixels, of a world twice as wide: sideways half the pixels."""
  scene = one("moves right", aspect=2.0)
  (flow,) = flows(scene, times=TIMES, height=HEIGHT, width=HEIGHT)
  speed = scene.velocity[0, 0] * HEIGHT / 2
  assert speed > 0 and len(flow.rows) > 50
  np.testing.assert_allclose(flow.columns - flow.from_columns, speed * 0.25, atol=1e-3)
  np.testing.assert_allclose(flow.from_rows, flow.rows, atol=1e-3)


def test_who_fills_a_pixel():
  """A pixel that something fills has its very colour; where two objects meet, that of the one in front."""
  scene = make_scene(5, 4, two_objects=True)
  picture = draw(scene, times=[1.0], height=HEIGHT, width=WIDTH)[0]
  found, parts = owners(scene, 1.0, HEIGHT, WIDTH), covers(scene, times=[1.0], height=HEIGHT, width=WIDTH)
  assert set(np.unique(found)) == {0, 1, 2, MIXED}
  for number, (part,) in enumerate(parts, start=1):
    assert (part[found == number] > 0.998).all() and (part[found == 0] < 2e-3).all()
    colour = list(grammar.COLOURS.values())[scene.colour[number - 1]]
    assert np.abs(picture[found == number] - colour).max() < 0.5


def test_what_was_hidden_does_not_count():
  """The objects of these scenes cross: pixels of the one behind have to be its own in both frames."""
  scene = make_scene(5, 4, two_objects=True)
  for flow in flows(scene, times=np.arange(16) / 3, height=HEIGHT, width=WIDTH):
    assert not flow.still[flow.rows, flow.columns].any()
    assert len(set(zip(flow.rows.tolist(), flow.columns.tolist(), strict=True))) == len(flow.rows)
    assert (flow.from_rows >= 0).all() and (flow.from_rows <= HEIGHT - 1).all() and (flow.from_columns <= WIDTH - 1).all()
