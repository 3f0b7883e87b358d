"""Sources by weight: exact counts, exact epochs, exact places in time."""

import collections
import dataclasses
import itertools
from fractions import Fraction

import jax
import numpy as np
import pytest

from ivid.data import rows
from ivid.data.example import Split, index_words
from ivid.data.mixture import Drawn, Mixture, Shares, drawn
from ivid.data.pipeline import make_pipeline
from ivid.data.prepare import prepare
from ivid.data.windows import frames_at
from ivid.diffusion.keys import example_keys
from ivid.media.clips import write_clip
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.prepare import PrepareSpec
from ivid.spec.run import DataSpec, Short, SourceSpec, TrainSpec
from ivid.spec.stage import LevelSpec, StageSpec, Task, UNetSpec
from ivid.spec.view import make_view
from tests.media.test_decode import encode

SHAPE = ClipShape(4, 12, 20, 2.0)
STAGE = StageSpec("base", Task.BASE, SHAPE, UNetSpec(levels=(LevelSpec(channels=8),)))


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1,), (1, 1, 1), (0.5, 0.25, 0.25), (3, 0.01), (1 / 3, 2 / 3)])
def test_shares_are_as_near_as_whole_numbers_come(weights):
  shares, counts = Shares(weights), collections.Counter()
  for draw in range(3000):
    source, count = shares[draw]
    assert count == counts[source]
    counts[source] += 1
    for n, weight in enumerate(weights):
      assert abs(counts[n] - (draw + 1) * weight / sum(weights)) <= 1.01
  assert shares[10**12][1] == pytest.approx(10**12 * weights[shares[10**12][0]] / sum(weights), rel=1e-4)


def test_a_weight_that_is_next_to_nothing():
  with pytest.raises(UserError, match="a weight of 1e-07 of 1 in all: expected at least 1 of 10000"):
    Shares((1, 1e-7))


class Counted:
  """A source that says what was asked of it."""

  def __init__(self, name, clips, images):
    self.name, self.clips, self.images = name, clips, images

  def clip(self, count):
    return np.zeros((4, 2, 2, 3), np.uint8), f"{self.name} clip {count % self.clips}"

  def image(self, count):
    return np.zeros((2, 2, 3), np.uint8), f"{self.name} image {count % self.images}"


def mixture(train, members, **options):
  view = make_view(train, STAGE)
  options = dict(clips=[0.7, 0.3], images=[0.7, 0.3], first_index=0, before=Drawn()) | options
  return Mixture(members, **options, train=train, view=view)


def test_counters_over_two_epochs():
  """Images at a quarter, weights 0.7 and 0.3: in two epochs each clip of a source comes exactly twice, and so does each image."""
  train = TrainSpec(batch_size=4, image_fraction=0.25)
  mixed = mixture(train, [Counted("a", 70, 56), Counted("b", 30, 24)])
  said = [mixed[index].captions for index in range(2 * 100 * 4 // 3 + 1)]
  clips = collections.Counter(captions[0] for captions in said if len(captions) == 1)
  assert len(clips) == 100 and sum(clips.values()) == 200 and set(clips.values()) == {2}
  pictures = collections.Counter(itertools.chain.from_iterable(captions for captions in said if len(captions) == 4))
  assert sum(count for name, count in pictures.items() if name[0] == "a") == round(0.7 * sum(pictures.values()))
  assert max(pictures.values()) - min(pictures.values()) <= 1


def test_a_phase_goes_on_where_the_one_before_ended():
  """Pictures alone, then clips with pictures among them: nothing is skipped, nothing comes twice within an epoch."""
  members = [Counted("a", 1000, 1000)]
  alone = TrainSpec(batch_size=5, frames=1)
  mixed = TrainSpec(batch_size=4, image_fraction=0.25)
  before = drawn(alone, make_view(alone, STAGE), 40)
  first = mixture(alone, members, clips=[1], images=[1])
  then = mixture(mixed, members, clips=[1], images=[1], first_index=40, before=before)
  said = [first[n].captions for n in range(40)] + [then[n].captions for n in range(40, 60)]
  flat = [caption for captions in said for caption in captions]
  assert flat.count("a image 59") == 1 and [c for c in flat if "image" in c] == [f"a image {n}" for n in range(60)]
  assert [c for c in flat if "clip" in c] == [f"a clip {n}" for n in range(15)]
  assert drawn(mixed, make_view(mixed, STAGE), 20) == Drawn(15, 20)


def test_what_a_mixture_needs():
  with pytest.raises(UserError, match="data has no clips, only images: expected a phase of frames=1"):
    mixture(TrainSpec(batch_size=4), [Counted("a", 0, 5)], clips=[1], images=[1])
  with pytest.raises(UserError, match="data has neither clips nor images"):
    mixture(TrainSpec(batch_size=4, frames=1), [Counted("a", 0, 0)], clips=[1], images=[1])


def test_a_run_across_two_to_the_31(monkeypatch):
  """Indices go on, as two words; the keys below are those of one word, and no two are alike."""

  class Indices:
    def __getitem__(self, index):
      return rows.Example(np.zeros((1, 2, 2, 3), np.uint8), (str(index),), True, 1.0)

  monkeypatch.setattr(rows, "make_source", lambda **_: Indices())
  train = TrainSpec(batch_size=4)
  for start in (2**31, 2**32):
    batches = make_pipeline(data=DataSpec(), train=train, stage=STAGE, start_step=start // 4 - 1)
    got = [next(batches) for _ in range(2)]
    places = [int(low) + (int(high) << 32) for batch in got for low, high in batch["index"]]
    assert places == list(range(start - 4, start + 4)) == [int(row[0]) for batch in got for row in batch["captions"]]
  key = jax.random.key(3)
  at = [5, 2**31 - 1, 2**31, 2**32 + 5, 2**33 + 5]
  keys = jax.random.key_data(example_keys(key, index_words(at)))
  np.testing.assert_array_equal(keys[:3], [jax.random.key_data(jax.random.fold_in(key, index)) for index in at[:3]])
  assert len({tuple(row) for row in np.asarray(keys).tolist()}) == len(at)


def numbered(times, levels):
  """A clip whose gray levels tell its frames, at these times in thousandths of a second."""
  return encode([np.full((24, 40, 3), level, np.uint8) for level in levels], times=times, rate=100, options={"g": "5", "qp": "0"})


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), 25, 15, 24, "uneven"])
def test_frames_of_any_rate_by_their_times(rate):
  """The picture at t is the last that appeared by then, to a thousandth of a second; also in a window that begins late."""
  rng = np.random.default_rng(0)
  times = np.cumsum(rng.integers(10, 120, 60)) - 10 if rate == "uneven" else np.arange(60) * 1000 / float(rate)
  times = np.round(times - times[0]).astype(int).tolist()
  levels = [4 * n + 8 for n in range(60)]
  clip = numbered(times, levels)
  for start in (0.0, 0.61, 1.3):
    wanted = start + np.arange(5) / 6
    got = frames_at(clip, wanted, 12, 20).mean(axis=(1, 2, 3))
    shown = [levels[max(n for n, time in enumerate(times) if time <= 1000 * t + 1.001)] for t in wanted]
    np.testing.assert_allclose(got, shown, atol=1.6)


def test_geometry_of_known_patches():
  """4:3 into 5:3 loses rows above and below and squeezes nothing, also where pixels are not square."""
  patch = np.zeros((240, 320, 3), np.uint8)
  patch[24:216], patch[:24], patch[216:] = 100, (250, 0, 0), (250, 0, 0)
  patch[96:144, 136:184] = 220  # a square of 48
  wide = patch[:, ::2]  # the same with pixels twice as wide
  for frames, aspect in ((patch, None), (wide, Fraction(2, 1))):
    got = frames_at(encode([frames] * 2, aspect=aspect, options={"qp": "4"}), np.array([0.0]), 24, 40)[0].astype(int)
    assert np.abs(got - got[..., :1]).max() < 12  # none of the red
    bright = np.argwhere(got[..., 1] > 160)
    assert np.ptp(bright, axis=0).tolist() == [5, 5]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
  """Six clips of 2 s and two of half a second, prepared."""
  root = tmp_path_factory.mktemp("own")
  for n in range(8):
    frames = 20 if n < 6 else 5
    levels = 20 * n + 10 + np.arange(frames) // 5
    clip = np.broadcast_to(levels[:, None, None, None].astype(np.uint8), (frames, 24, 40, 3)).copy()
    write_clip(root / f"c{n}.mp4", clip, 10)
    (root / f"c{n}.txt").write_text(f"clip {n}")
  prepare(PrepareSpec(input=str(root), num_test=1), str(root / "out"), workers=1)
  return DataSpec(name="tfds:clips", dir=str(root / "out"))


def test_short_clips_are_left_out_held_or_looped(own):
  train, stage = TrainSpec(batch_size=5), dataclasses.replace(STAGE, output=dataclasses.replace(SHAPE, fps=2.0))

  def captions(data, batches=2):
    pipeline = make_pipeline(data=data, train=train, stage=stage)
    return [row[0] for _ in range(batches) for row in next(pipeline)["captions"]]

  assert not {"clip 6", "clip 7"} & set(captions(own))
  held = captions(dataclasses.replace(own, short=Short.HOLD), 7)
  assert len(set(held)) == 7 and set(collections.Counter(held).values()) == {5}
  with pytest.raises(UserError, match="none of its 7 clips lasts the 40 s of 4x12x20@0.1fps: expected longer ones, or data.short=hold"):
    stage = dataclasses.replace(STAGE, output=dataclasses.replace(SHAPE, fps=0.1))
    captions(own)


def test_workers_and_processes_see_the_same(own):
  """An example depends on its index alone: the same from a worker process, from rows of another host, and after a resumption."""
  train = TrainSpec(batch_size=4, image_fraction=0.25)
  want = list(itertools.islice(make_pipeline(data=own, train=train, stage=STAGE), 3))
  working = make_pipeline(data=dataclasses.replace(own, workers=1), train=train, stage=STAGE, start_step=1, rows=[1, 3])
  for batch in want[1:]:
    got = next(working)
    for name in ("video", "index", "is_video"):
      np.testing.assert_array_equal(got[name], batch[name][[1, 3]])
    assert got["captions"] == [batch["captions"][1], batch["captions"][3]]
  working.close()


def test_drawn_and_own_clips_mixed(own):
  sources = (SourceSpec("moving_shapes", clips=0.25), SourceSpec(own.name, own.dir, clips=0.75))
  data = dataclasses.replace(own, name="", dir="", sources=sources)
  pipeline = make_pipeline(data=data, train=TrainSpec(batch_size=8), stage=STAGE)
  said = [row[0] for _ in range(2) for row in next(pipeline)["captions"]]
  assert sum(text.startswith("clip ") for text in said) == 12
  with pytest.raises(UserError, match=r"data.sources\[1\].name='tdfs:clips': did you mean|expected one of"):
    next(make_pipeline(data=dataclasses.replace(data, sources=(sources[0], SourceSpec("tdfs:clips"))), train=TrainSpec(), stage=STAGE))
  held = next(make_pipeline(data=own, train=TrainSpec(batch_size=2), stage=STAGE, split=Split.EVAL))
  assert held["captions"][0] == held["captions"][1]  # the one of the validation split
