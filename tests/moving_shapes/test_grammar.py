import itertools

import numpy as np
import pytest

from ivid.moving_shapes import grammar, synonyms
from ivid.moving_shapes.grammar import Attributes, Object


def _all_objects():
  sizes, colours, shapes, motions = (range(len(t)) for t in (grammar.SIZES, grammar.COLOURS, grammar.SHAPES, grammar.MOTIONS))
  return [Object(*ids) for ids in itertools.product(sizes, colours, shapes, motions)]


def test_tables():
  assert len(grammar.SHAPES) == 32 and grammar.SHAPES[6] == "letter A" and len(grammar.MOTIONS) == 9 and len(grammar.COLOURS) == 8


def test_every_caption_parses_back():
  valid = [item for item in _all_objects() if item.valid]
  # Letters in one size, circle and ring without a spin in two sizes, the letter O without a spin.
  assert len(valid) == 8 * (26 * 9 + 6 * 9 * 2 - 2 * 2 - 1)
  for background, item in enumerate(valid):
    said = Attributes((item,), background % 5)
    assert grammar.parse(grammar.caption(said.objects, said.background)) == said
  rng = np.random.default_rng(0)
  for _ in range(200):
    said = grammar.sample_attributes(rng, True, False)
    assert grammar.parse(grammar.caption(said.objects, said.background)) == said


def test_every_image_caption_parses_back_to_what_stays_still():
  rng = np.random.default_rng(0)
  for index in range(200):
    said = grammar.sample_attributes(rng, index % 2 == 1)
    still = tuple(Object(item.size, item.colour, item.shape, grammar.STAYS_STILL) for item in said.objects)
    assert grammar.parse(grammar.image_caption(said.objects, said.background), motion=False) == Attributes(still, said.background)
  with pytest.raises(ValueError, match="caption word 5, 'spins': expected one of on, and"):
    grammar.parse("a large red star spins on a black background", motion=False)


def test_caption_text():
  objects = (grammar.Object(1, 0, 0, 0), grammar.Object(1, 5, 6, 5))
  assert grammar.caption(objects[:1], 0) == "a large red circle moves left on a black background"
  assert grammar.image_caption(objects, 4) == "a large red circle and a large blue letter A on a checkered background"


def test_held_out_rule():
  triples = list(itertools.product(range(8), range(32), range(9)))
  count = sum(grammar.held_out(Object(1, c, s, m)) for c, s, m in triples)
  assert count == 32 * 9  # for every shape and motion exactly one of the eight colours
  assert grammar.held_out(Object(0, 0, 0, 0)) and not grammar.held_out(Object(0, 1, 0, 0))
  assert grammar.held_out(Object(1, 3, 1, 1))  # 3 + 2 + 3


def test_training_never_contains_a_held_out_object():
  rng = np.random.default_rng(1)
  shapes = set()
  for i in range(5000):
    said = grammar.sample_attributes(rng, i % 3 == 0, False)
    assert len(said.objects) == (2 if i % 3 == 0 else 1)
    assert all(item.valid and not grammar.held_out(item) for item in said.objects)
    shapes |= {item.shape for item in said.objects}
    if i % 3 == 0:
      assert said.objects[0].colour != said.objects[1].colour and said.objects[0].shape != said.objects[1].shape
  assert shapes == set(range(32))
  for _ in range(100):
    assert all(grammar.held_out(item) for item in grammar.sample_attributes(rng, True, True).objects)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("a large rad circle moves left on a black background", "'red'"),
    ("a large red letter a moves left on a black background", "'letter A'"),
    ("a large red circle moves lift on a black background", "'moves left'"),
    ("a large red circle moves left on a blck background", "'black'"),
    ("a small red letter A moves left on a black background", "always large"),
    ("a large red ring spins on a black background", "cannot spin"),
    ("a large red ring grows and a small red star grows on a black background", "different colours"),
    ("a large red ring", "ends too early"),
    ("a large red ring grows on a black background now", "'now'"),
  ],
)
def test_parse_errors_are_one_line_and_name_the_nearest(text, message):
  with pytest.raises(ValueError, match=message) as error:
    grammar.parse(text)
  assert "\n" not in str(error.value)


def test_no_synonym_stands_for_two_attributes():
  for table in (synonyms.SIZE_WORDS, synonyms.COLOUR_WORDS, synonyms.SHAPE_WORDS, synonyms.MOTION_WORDS, synonyms.BACKGROUND_WORDS):
    words = [word for options in table.values() for word in options]
    assert len(words) == len(set(words))
  assert set(synonyms.MOTION_WORDS) == set(grammar.MOTIONS)
  assert set(synonyms.COLOUR_WORDS) == set(grammar.COLOURS)


def test_the_longest_template_fits():
  longest = [max(table, key=len) for table in (grammar.SIZES, grammar.COLOUR_NAMES, grammar.SHAPES, grammar.MOTIONS)]
  text = f"a {' '.join(longest)} and a {' '.join(longest)} on a {max(grammar.BACKGROUNDS, key=len)} background"
  assert len(text) <= grammar.MAX_CHARACTERS


def test_paraphrase_names_every_attribute():
  rng = np.random.default_rng(2)
  seen = set()
  for i in range(400):
    said = grammar.sample_attributes(rng, i % 2 == 0, False)
    text = grammar.paraphrase(said.objects, said.background, rng)
    seen.add(text)
    assert len(text) <= grammar.MAX_CHARACTERS
    for item in said.objects:
      size, colour, shape, motion = item.words
      assert any(word in text for word in synonyms.SIZE_WORDS[size])
      assert any(word in text for word in synonyms.COLOUR_WORDS[colour])
      assert any(word in text for pair in synonyms.MOTION_WORDS[motion] for word in pair)
      names = synonyms.SHAPE_WORDS.get(shape) or [form.format(shape[-1]) for form in synonyms.LETTER_WORDS]
      assert any(word in text for word in names)
  assert len(seen) > 390
