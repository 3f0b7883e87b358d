"""Prepared data sets: written without TensorFlow, read back through the pipeline."""

import dataclasses

import numpy as np
import pytest

from ivid.data import records
from ivid.data.pipeline import Split, make_pipeline
from ivid.data.prepared import all_captions
from ivid.moving_shapes import grammar
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.scene import make_scene
from ivid.spec.clip import ClipShape
from ivid.spec.run import DataSpec, TrainSpec
from ivid.spec.stage import LevelSpec, StageSpec, Task, UNetSpec

SHAPE = ClipShape(8, 12, 20, 1.5)
STAGE = StageSpec("base", Task.BASE, SHAPE, UNetSpec(levels=(LevelSpec(channels=8),)))
TRAIN = TrainSpec(batch_size=4)


def first_batch(data, **options):
  return next(make_pipeline(**{"data": data, "train": TRAIN, "stage": STAGE, **options}))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  from ivid.data import moving_shapes_builder as builders

  folder = tmp_path_factory.mktemp("tfds")
  config = builders.MovingShapesConfig(name="tiny", clip=SHAPE, num_clips=6, num_test=4, two_objects=0.5)
  builders.prepare(builders.MovingShapes(data_dir=folder, config=config))
  return DataSpec(name="tfds:moving_shapes", dir=str(folder))


def test_a_record_gives_its_clip_back():
  clip = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)
  record = records.encode(clip, fps=3.0, caption="a b")
  np.testing.assert_array_equal(records.clip_of(record), clip)
  np.testing.assert_array_equal(records.clip_of({"video": clip}), clip)
  assert records.text_of(record, records.CAPTION) == "a b" == records.text_of({"caption": b"a b"}, "caption")
  with pytest.raises(ValueError, match="a record holds picture"):
    records.clip_of({"picture": clip})


def test_an_epoch_holds_every_clip_once(prepared):
  train = TrainSpec(batch_size=3)
  both = [first_batch(prepared, train=train, start_step=step) for step in (0, 1)]
  said = [row[0] for batch in both for row in batch["captions"]]
  assert all(grammar.parse(text) for text in said)
  drawn = {}
  for index in range(6):
    rng = np.random.default_rng([0, index, 0, 1])
    scene = make_scene(0, index, aspect=5 / 3, two_objects=bool(rng.random() < 0.5))
    drawn[index] = rounded(draw(scene, times=np.arange(8) / 1.5, height=12, width=20))
  clips = np.concatenate([batch["video"] for batch in both])
  assert sorted(next(k for k, d in drawn.items() if np.array_equal(d, clip)) for clip in clips) == list(range(6))
  again = [row[0] for step in (2, 3) for row in first_batch(prepared, train=train, start_step=step)["captions"]]
  assert sorted(again) == sorted(said) and again != said
  assert both[0]["fps"].tolist() == [1.5] * 3


def test_test_split_images_and_smaller_views(prepared):
  held = first_batch(prepared, split=Split.EVAL)
  assert held["video"].shape == (4, 8, 12, 20, 3)
  images = first_batch(prepared, train=dataclasses.replace(TRAIN, image_fraction=0.5))
  assert images["is_video"].tolist() == [False, True, False, True] and [len(row) for row in images["captions"]] == [8, 1, 8, 1]
  assert not any(motion in text for text in images["captions"][0] for motion in grammar.MOTIONS)
  small = dataclasses.replace(STAGE, output=ClipShape(4, 6, 10, 0.75))
  got, whole = first_batch(prepared, stage=small)["video"], first_batch(prepared)["video"]
  means = whole[:, ::2].reshape(4, 4, 6, 2, 10, 2, 3).mean(axis=(3, 5))
  assert np.abs(got - means).max() <= 0.51


def test_all_captions_of_all_splits(prepared):
  found = list(all_captions(prepared.name, prepared.dir))
  assert len(found) == 2 * (6 + 4) and all(grammar.parse(text) for text in found[::2])
  assert not any(motion in text for text in found[1::2] for motion in grammar.MOTIONS)
  seen = {row[0] for split in (Split.TRAIN, Split.EVAL) for row in first_batch(prepared, split=split)["captions"]}
  assert seen <= set(found)
  with pytest.raises(ValueError, match="data.name='moving_shapes' has no end of captions: expected tfds:NAME"):
    list(all_captions("moving_shapes", ""))


def test_captions_that_are_no_utf_8():
  with pytest.raises(ValueError, match=r"a record's caption is no UTF-8: byte 0xff at place 2 of 4; it begins with b'a \\xffb'"):
    records.text_of({"caption": b"a \xffb"}, "caption")


def test_errors(prepared):
  with pytest.raises(ValueError, match="did you mean 'moving_shapes/tiny'"):
    first_batch(dataclasses.replace(prepared, name="tfds:moving_shape/tiny"))
  with pytest.raises(ValueError, match="no split for 'held_out'"):
    first_batch(prepared, split=Split.HELD_OUT)
  with pytest.raises(ValueError, match="12x20: expected at least 24x40"):
    first_batch(prepared, stage=dataclasses.replace(STAGE, output=ClipShape(8, 24, 40, 1.5)))
  with pytest.raises(ValueError, match="a clip of 5.33 s: expected the 6.67 s of 10x12x20@1.5fps"):
    first_batch(prepared, stage=dataclasses.replace(STAGE, output=ClipShape(10, 12, 20, 1.5)))


def test_any_rate_by_time(prepared):
  """Frame k shows the time k / fps, whatever the record's own rate: no clip is refused for its rate."""
  other = dataclasses.replace(STAGE, output=ClipShape(4, 12, 20, 1.0))
  whole, got = (first_batch(prepared, stage=stage, split=Split.EVAL)["video"] for stage in (STAGE, other))
  np.testing.assert_array_equal(got, whole[:, [0, 1, 3, 4]])  # at 0, 1, 2, 3 s of 1.5 frames a second
