import dataclasses

import numpy as np
import pytest

from ivid.data.pipeline import Split, make_pipeline
from ivid.moving_shapes import grammar
from ivid.spec.clip import ClipShape
from ivid.spec.run import CropSpec, DataSpec, TrainSpec
from ivid.spec.stage import Filter, LevelSpec, LowresSpec, StageSpec, Task, UNetSpec
from ivid.spec.view import make_view
from ivid.video.lowres import shrink

DATA = DataSpec()
TRAIN = TrainSpec(batch_size=4, image_fraction=0.25)
UNET = UNetSpec(levels=(LevelSpec(channels=8),))
BASE = StageSpec("base", Task.BASE, ClipShape(8, 12, 20, 1.5), UNET)
SSR = StageSpec("ssr", Task.SSR, ClipShape(8, 24, 40, 1.5), UNET, lowres=LowresSpec(input=BASE.output))


def batch(number=0, *, data=DATA, train=TRAIN, stage=BASE, **options):
  iterator = make_pipeline(data=data, train=train, stage=stage, **options)
  for _ in range(number):
    next(iterator)
  return next(iterator)


def assert_same(a, b):
  assert a.keys() == b.keys()
  assert a["captions"] == b["captions"]
  for name in a.keys() - {"captions"}:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_contents():
  got = batch(2)
  assert got["video"].shape == (4, 8, 12, 20, 3) and got["video"].dtype == np.uint8
  assert got["index"].tolist() == [[8, 0], [9, 0], [10, 0], [11, 0]] and got["index"].dtype == np.uint32
  assert got["is_video"].tolist() == [False, True, True, True]
  assert got["fps"].tolist() == [1.5] * 4 and got["fps"].dtype == np.float32
  assert [len(row) for row in got["captions"]] == [8, 1, 1, 1] and len(set(got["captions"][0])) > 4
  assert np.ptp(got["video"].astype(int), axis=(1, 2, 3, 4)).min() > 30  # every row shows something
  alone = batch(train=dataclasses.replace(TRAIN, image_fraction=0.0))
  assert [len(row) for row in alone["captions"]] == [1] * 4 and alone["is_video"].all()


def test_restart_continues_bit_for_bit():
  assert_same(batch(5), batch(start_step=5))


@pytest.mark.parametrize("threads", [0, 3])
def test_threads_do_not_matter(threads):
  assert_same(batch(1), batch(1, data=dataclasses.replace(DATA, threads=threads)))


def test_processes_share_a_batch():
  whole = batch(3)
  for rows in ([0, 1], [2, 3], [1, 3]):  # a pod's neighbours are not always neighbours in the batch
    part = batch(3, rows=rows)
    assert_same({k: [v[r] for r in rows] if k == "captions" else v[rows] for k, v in whole.items()}, part)


def test_an_example_depends_on_its_index_not_its_batch():
  # Row 1 of a batch of 4 at step 1 is row 5 of a batch of 8 at step 0, and a video in both.
  a, b = batch(1), batch(train=dataclasses.replace(TRAIN, batch_size=8))
  np.testing.assert_array_equal(a["video"][1], b["video"][5])
  assert a["captions"][1] == b["captions"][5]


def test_seed_and_split_change_everything():
  first = batch()["video"]
  for other in (batch(train=dataclasses.replace(TRAIN, seed=1)), batch(split=Split.EVAL), batch(split=Split.HELD_OUT)):
    assert all((first[i] != other["video"][i]).any() for i in range(4))


def test_captions_by_split():
  train = TrainSpec(batch_size=64)
  small = dataclasses.replace(BASE, output=ClipShape(1, 12, 20, 1.0))
  direct = dataclasses.replace(DATA, threads=0)
  plain = dataclasses.replace(direct, paraphrase=0.0, two_objects=1.0)
  short = dataclasses.replace(BASE, output=ClipShape(2, 12, 20, 0.375))
  one = {split: [row[0] for row in batch(data=direct, train=train, stage=short, split=split)["captions"]] for split in Split}
  for split in (Split.EVAL, Split.HELD_OUT):
    objects = [item for text in one[split] for item in grammar.parse(text).objects]
    assert {grammar.held_out(item) for item in objects} == ({True} if split is Split.HELD_OUT else {False})
  failing = 0
  for text in one[Split.TRAIN]:
    try:
      grammar.parse(text)
    except ValueError:
      failing += 1
  assert 8 <= failing <= 32  # 30% of 64 are paraphrased
  assert 8 <= sum(" and " in text for text in one[Split.EVAL]) <= 32
  assert all(" and " in row[0] for row in batch(data=plain, train=train, stage=small)["captions"])


def test_fewer_frames_are_spread_evenly():
  plain = TrainSpec(batch_size=2)
  whole, few = batch(train=plain), batch(train=dataclasses.replace(plain, frames=4))
  np.testing.assert_array_equal(few["video"], whole["video"][:, ::2])
  assert few["fps"].tolist() == [0.75] * 2 and few["captions"] == whole["captions"]
  with pytest.raises(ValueError, match="train.frames=3 .* nearest 2"):
    batch(train=dataclasses.replace(plain, frames=3))


def test_one_frame_is_an_image():
  got = batch(train=TrainSpec(batch_size=2, frames=1), split=Split.EVAL)
  assert got["video"].shape == (2, 1, 12, 20, 3) and not got["is_video"].any()
  assert not any(motion in row[0] for row in got["captions"] for motion in grammar.MOTIONS)


def test_crops_are_parts_of_the_whole():
  train = TrainSpec(batch_size=6)
  whole = batch(train=train, stage=SSR)["video"]
  crops = batch(train=dataclasses.replace(train, crop=CropSpec(frames=4, height=8, width=12)), stage=SSR)["video"]
  assert crops.shape == (6, 4, 8, 12, 3)
  corners = set()
  for clip, crop in zip(whole, crops, strict=True):
    places = [(t, y, x) for t in range(5) for y in range(0, 17, 2) for x in range(0, 29, 2)]
    same = [p for p in places if np.abs(clip[p[0] : p[0] + 4, p[1] : p[1] + 8, p[2] : p[2] + 12].astype(int) - crop).max() <= 1]
    assert same, "the crop starts at no even place of the clip"
    corners.add(same[0])
  assert len(corners) > 2
  with pytest.raises(ValueError, match="train.crop.height=30: expected 1 to 24"):
    batch(train=dataclasses.replace(train, crop=CropSpec(height=30)), stage=SSR)


def test_a_squeezed_world_crops_on_the_small_grid():
  """A square that shows 5:3, resized back by a stage that changes the aspect: crops start where both grids meet."""
  square = ClipShape(8, 32, 32, 1.5)
  stage = StageSpec("ssr", Task.SSR, ClipShape(8, 24, 40, 1.5), UNET, lowres=LowresSpec(input=square, shrink=Filter.TRIANGLE))
  squeezed = StageSpec("base", Task.BASE, square, UNET)
  train = dataclasses.replace(TRAIN, image_fraction=0.0)
  whole = batch(train=train, stage=stage)["video"].astype(np.float32)
  small = shrink(whole, stage.lowres, stage.output)
  drawn = batch(train=train, stage=squeezed, data=dataclasses.replace(DATA, aspect=5 / 3))["video"]
  assert np.abs(small - drawn).mean() < 4  # the same scenes, by another filter
  assert np.abs(small - batch(train=train, stage=squeezed)["video"]).mean() > 8
  crops = dataclasses.replace(train, crop=CropSpec(frames=8, height=12, width=20))
  assert make_view(crops, stage).align == (1, 3, 5)


def test_errors():
  with pytest.raises(ValueError, match="did you mean 'moving_shapes'"):
    batch(data=DataSpec(name="moving_shape"))
  with pytest.raises(ValueError, match="lasts 16 s"):
    batch(stage=dataclasses.replace(BASE, output=ClipShape(8, 12, 20, 0.5)))
  with pytest.raises(ValueError, match="width/height=0.6"):
    batch(stage=dataclasses.replace(BASE, output=ClipShape(8, 20, 12, 1.5)))
