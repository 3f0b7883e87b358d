"""The adherence evaluator on drawn clips, whose scenes are known, and on clips that show nothing of the kind."""

import dataclasses

import numpy as np
import pytest

from ivid.evaluate import calibrate
from ivid.evaluate.calibrate import change_one, make_clip, measure
from ivid.moving_shapes import grammar
from ivid.moving_shapes.observer import ATTRIBUTES, Observation, Seen, observe, score
from ivid.moving_shapes.scene import make_scene

ASKED = "a large red circle moves left and a small blue star stays still on a striped background"


def drawn(text: str, rows: int = 24, frames: int = 16, index: int = 0) -> np.ndarray:
  return make_clip(make_scene(4, index, said=grammar.parse(text)), rows, frames)


def seen_as(text: str, letters: bool = True) -> Observation:
  """What a perfect observer sees of a clip of the prompt."""
  said = grammar.parse(text)
  objects = tuple(Seen(item.size, item.colour, item.shape, item.motion, 0.5, 0.0) for item in said.objects)
  return Observation(len(objects), objects, said.background, letters)


def test_drawn_clips_at_24_rows():
  shares = measure(24, 60, seed=11)
  assert min(shares[name] for name in ATTRIBUTES) >= 0.98 and shares["all"] >= 0.96 and shares["caught"] >= 0.98, shares


def test_drawn_clips_at_48_rows():
  shares = measure(48, 30, seed=12)
  assert min(shares[name] for name in ATTRIBUTES) >= 0.96 and shares["caught"] >= 0.96, shares


def test_soft_and_noisy_clips_at_24_rows():
  shares = measure(24, 40, seed=13, degraded=True)
  assert min(shares[name] for name in ATTRIBUTES) >= 0.92 and shares["caught"] >= 0.95, shares


@pytest.mark.parametrize("rows, frames", [(24, 32), (48, 32), (96, 16), (192, 64)])
def test_other_sizes_and_rates(rows, frames):
  text = "a large green letter K grows on a checkered background"
  assert observe(drawn(text, rows, frames)).text == text


@pytest.mark.parametrize("motion", grammar.MOTIONS)
def test_motions(motion):
  text = f"a small orange square {motion} on a gray background"
  assert observe(drawn(text)).text == text


@pytest.mark.parametrize("background", grammar.BACKGROUNDS)
def test_backgrounds(background):
  text = f"a large pink star spins and a small cyan ring moves up on a {background} background"
  result = score(observe(drawn(text)), grammar.parse(text))
  assert result["all"], result


def test_nothing_is_seen_where_nothing_is():
  rng = np.random.default_rng(0)
  gray = np.full((16, 24, 40, 3), 128, np.uint8)
  soft = np.clip(gray + rng.normal(0, 6, gray.shape), 0, 255).astype(np.uint8)
  for clip in (gray, soft, gray // 200):
    assert observe(clip).count == 0 and observe(clip).objects == ()


def test_fragments_are_not_one_object():
  rng = np.random.default_rng(0)
  assert observe(rng.integers(0, 256, (16, 24, 40, 3), dtype=np.uint8)).count != 1
  clip = np.zeros((16, 24, 40, 3), np.uint8)
  clip[:, 4:10, 4:10] = clip[:, 14:20, 25:31] = grammar.COLOURS["red"]
  assert observe(clip).count == 2
  clip[:, 4:10, 25:31] = clip[:, 14:20, 4:10] = grammar.COLOURS["red"]
  assert observe(clip).count == 4


def test_a_blinking_object_does_not_stay_still():
  clip = drawn("a large red square stays still on a black background")
  clip[::2] = 0
  assert not score(observe(clip), grammar.parse("a large red square stays still on a black background"))["all"]


def test_score_of_the_right_clip():
  assert all(score(seen_as(ASKED), grammar.parse(ASKED)).values())
  turned = dataclasses.replace(seen_as(ASKED), objects=seen_as(ASKED).objects[::-1])
  assert all(score(turned, grammar.parse(ASKED)).values())


@pytest.mark.parametrize(
  "changed, wrong",
  [
    (ASKED.replace("red", "green"), {"colour"}),
    (ASKED.replace("star", "ring"), {"shape"}),
    (ASKED.replace("small blue", "large blue"), {"size"}),
    (ASKED.replace("moves left", "grows"), {"motion"}),
    (ASKED.replace("striped", "black"), {"background"}),
    ("a large red circle moves left on a striped background", {"count"}),
  ],
)
def test_score_names_what_is_wrong(changed, wrong):
  result = score(seen_as(ASKED), grammar.parse(changed))
  assert {name for name, right in result.items() if not right} == wrong | {"all"}


def test_a_missing_object_has_no_attribute_right():
  result = score(seen_as("a large red circle moves left on a striped background"), grammar.parse(ASKED))
  assert [name for name, right in result.items() if right] == ["background"]


def test_letters_pass_for_each_other_only_where_they_cannot_be_told_apart():
  text = "a large red letter B spins on a black background"
  other = grammar.parse(text.replace("letter B", "letter R"))
  assert score(seen_as(text, letters=False), other)["all"] and not score(seen_as(text), other)["shape"]
  assert not score(seen_as(text, letters=False), grammar.parse(text.replace("letter B", "star")))["shape"]


@pytest.mark.parametrize("letters", [True, False])
def test_a_changed_prompt_is_another_one(letters):
  for index in range(200):
    rng = np.random.default_rng(index)
    said = grammar.sample_attributes(rng, index % 2 == 1)
    _, changed = change_one(said, rng, letters)
    grammar.parse(grammar.caption(changed.objects, changed.background))  # raises if the world has no such scene
    assert not score(seen_as(grammar.caption(said.objects, said.background), letters), changed)["all"]


@pytest.mark.parametrize(
  "shape, dtype",
  [((16, 24, 40, 3), np.float32), ((16, 24, 40), np.uint8), ((4, 24, 40, 3), np.uint8), ((16, 12, 20, 3), np.uint8)],
)
def test_what_is_no_clip(shape, dtype):
  with pytest.raises(ValueError, match="clip .*: expected"):
    observe(np.zeros(shape, dtype))

  assert calibrate.degrade(np.zeros((8, 24, 40, 3), np.uint8), np.random.default_rng(0)).dtype == np.uint8
