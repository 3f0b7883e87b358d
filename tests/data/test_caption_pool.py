"""The pool of captions: what is in it, what it depends on, and how examples come from it."""

import dataclasses
import itertools

import numpy as np
import pytest

from ivid.data import caption_pool
from ivid.data.caption_pool import make_pool
from ivid.data.example import Split
from ivid.data.sources import make_source
from ivid.data.view import frame_times
from ivid.moving_shapes import grammar
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.scene import make_scene
from ivid.spec.clip import ClipShape
from ivid.spec.run import DataSpec, TrainSpec
from ivid.spec.stage import LevelSpec, StageSpec, Task, UNetSpec

STAGE = StageSpec("base", Task.BASE, ClipShape(4, 12, 20, 0.75), UNetSpec(levels=(LevelSpec(channels=8),)))
DATA, TRAIN = DataSpec(caption_pool=32), TrainSpec(image_fraction=0.5, batch_size=2)
POOL = make_pool(0, 32, 0.3, 0.3)


def source(*, data=DATA, train=TRAIN, split=Split.TRAIN):
  return make_source(data=data, train=train, stage=STAGE, split=split)


def said(pool):
  return {entry.attributes for entry in (*pool.images, *pool.clips)}


def test_it_depends_on_its_numbers_alone():
  again = make_pool.__wrapped__(0, 32, 0.3, 0.3)
  assert again == POOL and again is not POOL and len(POOL.images) == len(POOL.clips) == 16
  assert caption_pool.training_pool(DATA, 0) == POOL
  assert not set(make_pool(1, 32, 0.3, 0.3).captions()) & set(POOL.captions())
  assert caption_pool.training_pool(dataclasses.replace(DATA, caption_pool=0), 0) is None
  assert caption_pool.training_pool(dataclasses.replace(DATA, name="tfds:moving_shapes"), 0) is None


def test_shares():
  pool = make_pool(0, 2000, 0.3, 0.2)
  for entries, motion in ((pool.images, False), (pool.clips, True)):
    write = grammar.caption if motion else grammar.image_caption
    plain = [entry.caption == write(entry.attributes.objects, entry.attributes.background) for entry in entries]
    assert 0.64 < np.mean(plain) < 0.76  # four standard deviations
    assert 0.15 < np.mean([len(entry.attributes.objects) == 2 for entry in entries]) < 0.25
    # Both vary independently: of two objects as many are paraphrased.
    assert 0.55 < np.mean([p for p, entry in zip(plain, entries, strict=True) if len(entry.attributes.objects) == 2]) < 0.85
  assert all(grammar.parse(entry.caption) == entry.attributes for entry in make_pool(0, 32, 0.0, 1.0).clips)
  words = {word for motion in grammar.MOTIONS for word in motion.split()[:1]}
  assert not any(words & set(entry.caption.split()) for entry in pool.images)


def test_no_held_out_object():
  assert not any(grammar.held_out(item) for attributes in said(make_pool(0, 2000, 0.3, 0.3)) for item in attributes.objects)


def test_examples_take_what_the_pool_says():
  """Images say and show an image's entry, clips a clip's; all entries are used."""
  examples, used = source(), set()
  for index in range(40):
    example = examples[index]
    allowed = {entry.caption for entry in (POOL.clips if example.is_video else POOL.images)}
    assert set(example.captions) <= allowed and example.is_video == (index % 2 == 1)
    used |= set(example.captions)
  assert len(used) > 24
  plain = source(data=dataclasses.replace(DATA, paraphrase=0.0), train=dataclasses.replace(TRAIN, image_fraction=0.0))
  for index in range(4):
    example = plain[index]
    scene = make_scene(0, index, aspect=20 / 12, said=grammar.parse(example.captions[0]))
    np.testing.assert_array_equal(example.video, rounded(draw(scene, times=frame_times(plain.view, 0), height=12, width=20)))


def test_an_example_depends_on_its_index_alone():
  first, other = source(), source(train=dataclasses.replace(TRAIN, steps=7, batch_size=4))
  forwards = [first[index] for index in range(6)]
  for index in (5, 3, 1, 0):
    again = other[index]
    np.testing.assert_array_equal(again.video, forwards[index].video)
    assert again.captions == forwards[index].captions
  for a, b in itertools.pairwise(forwards):
    assert a.captions != b.captions
  seeded = source(train=dataclasses.replace(TRAIN, seed=1))
  assert all(seeded[index].captions != forwards[index].captions for index in range(6))


@pytest.mark.parametrize("split", [Split.EVAL, Split.HELD_OUT])
def test_other_splits_stay_as_they_are(split):
  with_pool, without = source(split=split), source(data=dataclasses.replace(DATA, caption_pool=0), split=split)
  for index in range(4):
    np.testing.assert_array_equal(with_pool[index].video, without[index].video)
    assert with_pool[index].captions == without[index].captions


@pytest.mark.parametrize(("size", "more"), [(-1, ""), (31, r".*nearest: 32\)")])
def test_bad_sizes(size, more):
  with pytest.raises(ValueError, match=rf"data.caption_pool={size}: expected 0 or an even number{more}"):
    DataSpec(caption_pool=size)
