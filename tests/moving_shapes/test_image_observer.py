"""The observer of single images, on drawn ones whose scenes are known, and on pictures that show nothing of the kind."""

import dataclasses

import numpy as np
import pytest

from ivid.evaluate.calibrate import make_image, measure
from ivid.moving_shapes import grammar
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.image_observer import observe_image
from ivid.moving_shapes.observer import IMAGE_ATTRIBUTES, Observation, Seen, score
from ivid.moving_shapes.scene import make_scene

ASKED = "a large red circle and a small blue star on a striped background"


def turned(shape: str, degrees: float, rows: int = 24, size: str = "large") -> np.ndarray:
  """A picture of one shape turned clockwise."""
  scene = make_scene(5, 0, said=grammar.parse(f"a {size} green {shape} spins on a gray background"))
  scene = scene._replace(turn=np.full(2, np.radians(degrees), np.float32))
  return rounded(draw(scene, times=np.ones(1), height=rows, width=rows * 5 // 3))[0]


def seen_as(text: str, letters: bool = True) -> Observation:
  """What a perfect observer sees of an image of the prompt."""
  said = grammar.parse(text, motion=False)
  objects = tuple(Seen(item.size, item.colour, item.shape, None, 0.5, 0.0) for item in said.objects)
  return Observation(len(objects), objects, said.background, letters, still=True)


def test_forty_drawn_images_are_right_and_changed_prompts_are_caught():
  shares = measure(24, 40, seed=21, images=True)
  assert shares == dict.fromkeys((*IMAGE_ATTRIBUTES, "all", "caught"), 1.0)


def test_drawn_images_at_48_rows():
  assert set(measure(48, 20, seed=22, images=True).values()) == {1.0}


def test_soft_and_noisy_images_at_24_rows():
  shares = measure(24, 40, seed=23, degraded=True, images=True)
  assert min(shares[name] for name in IMAGE_ATTRIBUTES) >= 0.9 and shares["caught"] == 1.0, shares


@pytest.mark.parametrize("size", grammar.SIZES)
@pytest.mark.parametrize("shape", ["square", "triangle", "star", "cross"])
def test_turned_shapes_stay_what_they_are(shape, size):
  for degrees in (0, 20, 45, 70, 133, 180, 215, 301):
    text = f"a {size} green {shape} on a gray background"
    assert observe_image(turned(shape, degrees, size=size)).text == text, degrees


def test_turned_letters_are_told_apart_where_there_are_rows_enough():
  for letter in "AHNZMWUC":
    found = observe_image(turned(f"letter {letter}", 90, rows=48))
    assert found.letters and found.text == f"a large green letter {letter} on a gray background"
  assert not observe_image(turned("letter N", 90)).letters


@pytest.mark.parametrize("background", grammar.BACKGROUNDS)
def test_backgrounds(background):
  said = grammar.parse(f"a large pink star spins and a small cyan ring moves up on a {background} background")
  result = score(observe_image(make_image(make_scene(4, 0, said=said), 32, np.random.default_rng(0))), said)
  assert result["all"], result


def test_nothing_is_seen_where_nothing_is():
  gray = np.full((24, 40, 3), 128, np.uint8)
  soft = np.clip(gray + np.random.default_rng(0).normal(0, 6, gray.shape), 0, 255).astype(np.uint8)
  for picture in (gray, soft, gray // 200):
    assert observe_image(picture).count == 0 and observe_image(picture).text.startswith("nothing on a ")


def test_fragments_count_and_a_blot_has_no_shape():
  picture = np.zeros((24, 40, 3), np.uint8)
  picture[4:10, 4:10] = picture[14:20, 25:31] = grammar.COLOURS["red"]
  found = observe_image(picture)
  assert found.count == 2 and len(found.objects) == 1 and found.objects[0].words[2] == "unclear"
  assert observe_image(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)).count != 1


def test_score_of_the_right_image():
  expected = dict.fromkeys((*IMAGE_ATTRIBUTES, "all", "plain_shape"), True) | {"letter": None}
  seen = seen_as(ASKED)
  assert score(seen, grammar.parse(ASKED, motion=False)) == expected
  assert score(dataclasses.replace(seen, objects=seen.objects[::-1]), grammar.parse(ASKED, motion=False)) == expected
  moving = grammar.parse(ASKED.replace("circle", "circle moves left").replace("star", "star spins"))
  assert score(seen, moving) == expected  # an image knows no motion


@pytest.mark.parametrize(
  "changed, wrong",
  [
    (ASKED.replace("red", "green"), {"colour"}),
    (ASKED.replace("star", "ring"), {"shape", "plain_shape"}),
    (ASKED.replace("small blue", "large blue"), {"size"}),
    (ASKED.replace("striped", "black"), {"background"}),
    ("a large red circle on a striped background", {"count"}),
    (ASKED.replace("a large red circle", "a large red letter O"), {"shape", "letter"}),
  ],
)
def test_score_names_what_is_wrong(changed, wrong):
  result = score(seen_as(ASKED), grammar.parse(changed, motion=False))
  assert {name for name, right in result.items() if right is False} == wrong | {"all"}


def test_plain_shapes_and_letters_apart():
  asked = grammar.parse("a large red letter B and a small blue star on a black background", motion=False)
  right = score(seen_as("a large red letter R and a small blue star on a black background"), asked)
  assert (right["shape"], right["plain_shape"], right["letter"]) == (False, True, False)
  small = score(seen_as("a large red letter R and a small blue star on a black background", letters=False), asked)
  assert small["letter"] and small["all"]
  missing = score(seen_as("a large red letter B on a black background"), asked)
  assert (missing["plain_shape"], missing["letter"]) == (False, True)


@pytest.mark.parametrize(
  "shape, dtype", [((24, 40, 3), np.float32), ((1, 24, 40, 3), np.uint8), ((12, 20, 3), np.uint8), ((40, 24, 3), np.uint8)]
)
def test_what_is_no_picture(shape, dtype):
  with pytest.raises(ValueError, match="picture .*: expected"):
    observe_image(np.zeros(shape, dtype))
