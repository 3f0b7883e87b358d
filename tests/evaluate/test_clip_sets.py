"""Sets of clips to compare: what they hold, and those that cannot be compared."""

import numpy as np
import pytest

from ivid.data.prepare import prepare
from ivid.evaluate.clip_sets import cascade_clips, folder_clips, real_clips
from ivid.evaluate.judged import from_cascade
from ivid.evaluate.prompts import seeded_prompts
from ivid.media.clips import read_clip, write_clip
from ivid.sample.plan import plan_stages
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.prepare import PrepareSpec
from tests.sample import tiny

SHAPE = ClipShape(10, 24, 40, 2.0)
ASPECT = 5 / 3


def levels(count, frames=10, height=24, width=40):
  return [np.full((frames, height, width, 3), 20 * n, np.uint8) for n in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("clips")
  for n, clip in enumerate(levels(4)):
    path = root / ("more" if n == 3 else "") / f"clip{n}.mp4"
    write_clip(path, clip, 2.0)
    path.with_suffix(".txt").write_text(f"level {n}")
  return root


def test_a_folders_clips_as_they_are(folder):
  found = folder_clips(str(folder))
  assert (found.shape, found.count, found.aspect) == (SHAPE, 4, ASPECT)
  for n, clip in zip([1, 3], found.clips([1, 3]), strict=True):
    np.testing.assert_array_equal(clip, read_clip(folder / ("more" if n == 3 else "") / f"clip{n}.mp4")[0])


@pytest.mark.parametrize(
  ("clip", "found"),
  [(levels(1, frames=13)[0], "at least 11x24x40"), (levels(1, frames=9)[0], "9x24x40"), (levels(1, height=48)[0], "10x48x40")],
)
def test_clips_of_unlike_length_or_size(tmp_path, clip, found):
  write_clip(tmp_path / "a.mp4", levels(1)[0], 2.0)
  write_clip(tmp_path / "b.mp4", clip, 2.0)
  with pytest.raises(UserError, match=f"b.mp4 is {found}: expected 10x24x40, as a.mp4 is: clips of one length and size"):
    list(folder_clips(str(tmp_path)).clips([0, 1]))


def test_a_folder_as_real_clips_at_the_shape_of_those_that_are_judged(tmp_path):
  for n in range(3):
    clip = np.concatenate([np.full((16, 24, 80, 3), 40 * n, np.uint8), np.full((16, 24, 80, 3), 40 * n + 20, np.uint8)])
    write_clip(tmp_path / f"{n}.mp4", clip, 4.0)
  found = real_clips(str(tmp_path), ClipShape(10, 12, 20, 2.0), count=0, aspect=ASPECT)
  assert found.count == 3
  for n, clip in enumerate(found.clips(range(3))):
    assert clip.shape == (10, 12, 20, 3)
    wanted = np.where(np.arange(10) < 8, 40 * n, 40 * n + 20)  # half as many frames a second
    np.testing.assert_allclose(clip.mean((1, 2, 3)), wanted, atol=3)
  with pytest.raises(UserError, match="0.mp4 has 16 frames at 2 a second: expected 17 or more, to be compared"):
    list(real_clips(str(tmp_path), ClipShape(17, 12, 20, 2.0), count=2, aspect=ASPECT).clips([0]))
  with pytest.raises(UserError, match="has 3 clips: expected 5, or real_clips=3"):
    real_clips(str(tmp_path), SHAPE, count=5, aspect=ASPECT)


def test_what_is_in_the_files_names_the_set(folder, tmp_path):
  for n, clip in enumerate(levels(4)):
    write_clip(tmp_path / f"other{n}.mp4", clip, 2.0)
  first = folder_clips(str(folder)).identity
  assert folder_clips(str(tmp_path)).identity == first  # the same clips in another place
  write_clip(tmp_path / "other2.mp4", levels(5)[4], 2.0)
  assert folder_clips(str(tmp_path)).identity != first


def test_drawn_clips():
  found = real_clips("moving_shapes", SHAPE, count=10, aspect=ASPECT)
  clips = list(found.clips(range(10)))
  assert len({clip.tobytes() for clip in clips}) == 10 and all(clip.shape == SHAPE.array for clip in clips)
  longer = real_clips("moving_shapes", SHAPE, count=30, aspect=ASPECT)
  np.testing.assert_array_equal(next(longer.clips([7])), clips[7])  # of which the first are the shorter set
  assert longer.identity == found.identity != real_clips("moving_shapes", SHAPE, count=10, aspect=ASPECT, seed=1).identity
  assert real_clips("moving_shapes", SHAPE, count=10, aspect=ASPECT, groups=("one",)).identity != found.identity
  with pytest.raises(UserError, match="moving_shapes: clips of 10 s: expected at most the 5.3"):
    real_clips("moving_shapes", ClipShape(20, 24, 40, 2.0), count=10, aspect=ASPECT)


def test_unknown_sources():
  with pytest.raises(UserError, match="real='nowhere': expected moving_shapes, tfds:NAME, or a folder of clips"):
    real_clips("nowhere", SHAPE, count=10, aspect=ASPECT)
  with pytest.raises(UserError, match="data.name='tfds:nothing' is not under"):
    real_clips("tfds:nothing", SHAPE, count=10, aspect=ASPECT)


def test_a_prepared_data_set(folder, tmp_path, monkeypatch):
  prepare(PrepareSpec(input=str(folder), name="levels"), str(tmp_path), workers=1)
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  found = real_clips("tfds:levels", ClipShape(10, 12, 20, 2.0), count=0, aspect=ASPECT)
  assert found.count == 1 and found.name == "tfds:levels (eval)"
  held_out = float(next(found.clips([0])).mean())
  found = real_clips("tfds:levels", ClipShape(10, 12, 20, 2.0), count=3, aspect=ASPECT)  # more than are held out
  assert found.count == 3 and found.name == "tfds:levels (train)"
  shown = sorted([held_out, *(float(clip.mean()) for clip in found.clips(range(3)))])
  np.testing.assert_allclose(shown, [0, 20, 40, 60], atol=3)
  with pytest.raises(UserError, match="tfds:levels has 3 clips: expected 9, or real_clips=3"):
    real_clips("tfds:levels", ClipShape(10, 12, 20, 2.0), count=9, aspect=ASPECT)


@pytest.mark.slow
def test_a_cascades_clips(tmp_path):
  cascade = tiny.write_tiny(tmp_path)
  stages = plan_stages(cascade, start="", stop="tsr1")
  prompts = seeded_prompts(0, 1)

  def judging(seed, stages=stages):
    return from_cascade(cascade, stages, prompts, seed=seed, batch_size=2)

  found = cascade_clips(cascade, stages, judging(3), seed=3)
  assert found.count == len(prompts) and found.shape == stages[-1].output
  every = list(judging(3).clips(range(len(prompts))))
  for have, want in zip(found.clips([1, 3]), (every[1], every[3]), strict=True):
    np.testing.assert_array_equal(have, want)
  assert found.identity != cascade_clips(cascade, stages, judging(4), seed=4).identity
  assert found.identity != cascade_clips(cascade, stages[:1], judging(3, stages[:1]), seed=3).identity
