"""Clips of another length: windows of the base, blended windows of stages that attend over time, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from ivid.sample import longer
from ivid.sample.keys import Sample, sample_keys
from ivid.sample.longer import windows
from ivid.sample.outputs import clip_metadata
from ivid.sample.plan import Overrides
from ivid.sample.requests import Draw, make_request, repeat_request
from ivid.sample.stage_sampler import sample_stage
from ivid.sample.tiling import blended, stage_tiling, stretched
from ivid.spec.errors import UserError
from ivid.stage import Stage
from tests.sample import tiny
from tests.sample.test_tiling import TSR, UNET

DRAW = Draw(("a red ball",))


def frames_of(request):
  return {clip.stage.name: clip.frames for clip in request.run(quiet=True)}


def test_windows_start_half_a_window_after_one_another():
  found = windows(14, 6, np.zeros(14, bool))
  assert [(w.number, w.start, w.known.sum()) for w in found] == [(0, 0, 0), (1, 3, 3), (2, 6, 3), (3, 9, 3)]
  assert all(w.known[:3].all() for w in found[1:])  # "first half", a pattern of training
  assert [w.start for w in windows(4, 6, np.zeros(4, bool))] == [0]


def test_what_is_given_is_not_sampled():
  given = np.arange(14) < 7
  assert [(w.number, w.start, w.known.sum()) for w in windows(14, 6, given)] == [(1, 3, 4), (2, 6, 3), (3, 9, 3)]
  assert [w.number for w in windows(7, 6, np.arange(7) < 6)] == [1]


@pytest.mark.parametrize("seconds", [0.5, 2.5])
def test_a_clip_of_another_length(cascade, seconds):
  """2.5 s of a base of two frames at 2 a second: its first window is the clip that it makes anyway, and a shorter clip a part of that."""
  request, usual = make_request(cascade, DRAW, seconds=seconds), frames_of(make_request(cascade, DRAW))
  made, count = frames_of(request), int(2 * seconds)
  assert {name: len(clip) for name, clip in made.items()} == {"base": count, "tsr1": 2 * count, "ssr1": 2 * count}
  np.testing.assert_array_equal(made["base"][:2], usual["base"][:count])
  if count > 2:
    assert np.abs(np.diff(made["base"].astype(int), axis=0)).mean(axis=(1, 2, 3)).min() > 1  # every window draws anew


def test_later_windows_go_on_and_depend_on_the_seed(cascade):
  one, other = (frames_of(make_request(cascade, Draw(("a red ball",), seed=seed), stop="base", seconds=2))["base"] for seed in (0, 1))
  assert np.abs(one[3].astype(int) - other[3]).mean() > 1


def test_going_on_later_is_the_same(cascade):
  whole = frames_of(make_request(cascade, DRAW, stop="base", seconds=3))["base"]
  again = frames_of(make_request(cascade, DRAW, stop="base", seconds=3, given=whole[:4]))["base"]
  np.testing.assert_array_equal(again, whole)


def test_metadata_make_a_long_clip_again(cascade):
  request = make_request(cascade, DRAW, seconds=2.5, batch_size=1)
  *_, last = request.run(quiet=True)
  metadata = request.metadata(last)
  assert metadata["given"] == {"sources": [], "method": "replacement", "resamplings": 5}
  *_, again = repeat_request(cascade, metadata, said_by="a.json").run(quiet=True)
  np.testing.assert_array_equal(again.frames, last.frames)
  with pytest.raises(UserError, match="frames=9: expected a multiple of 2, as stage ssr1 makes them"):
    repeat_request(cascade, metadata | {"frames": 9}, said_by="a.json")
  usual = make_request(cascade, DRAW)
  assert usual.given is None and clip_metadata(cascade, list(usual.stages), usual.samples[0], last, tiles={}, source=None)["given"] is None


@pytest.mark.parametrize(
  "seconds, message",
  [
    ("soon", "--seconds=soon: expected a number of seconds such as 20"),
    ("nan", "--seconds=nan: expected a number of seconds such as 20"),
    (float("inf"), "--seconds=inf: expected a number of seconds such as 20"),
    (True, "--seconds=True: expected a number"),
    (-3, "--seconds=-3 is less than a frame of stage base: expected 0.5 or more"),
    ("0.4", "--seconds=0.4 is less than a frame of stage base: expected 0.5 or more"),
    (1e9, "--seconds=1e+09: there is room for .* s: expected less, or a --stop_stage before ssr1"),
  ],
)
def test_lengths_that_cannot_be(cascade, seconds, message):
  with pytest.raises(UserError) as error:
    make_request(cascade, DRAW, seconds=seconds)
  start, *rest = message.split(".*")
  assert str(error.value).startswith(start) and "\n" not in str(error.value) and all(part in str(error.value) for part in rest)


def test_a_length_is_the_base_s_and_is_rounded_to_its_frames(cascade):
  assert make_request(cascade, DRAW, seconds=2).notes == ()
  request = make_request(cascade, DRAW, seconds="2.1")
  assert request.notes == ("--seconds=2.1: made 2, 4 frames of stage base at 2 a second",)
  with pytest.raises(UserError, match="--seconds=2: stage tsr1 makes a clip as long as its --input"):
    make_request(cascade, DRAW, start="tsr1", first=np.zeros((2, 8, 12, 3), np.uint8), seconds=2)


ATTENDS = dataclasses.replace(
  TSR, unet=dataclasses.replace(UNET, levels=tuple(dataclasses.replace(level, time=tiny.TimeMixing.ATTENTION) for level in UNET.levels))
)


def test_blended_windows_cover_every_frame_once():
  spec = stretched(ATTENDS, 14)
  tiling = blended(stage_tiling(ATTENDS), spec)
  total = np.zeros(spec.output.frames)
  for slab, weights in zip(tiling.slabs, tiling.weights, strict=True):
    (start, stop), *_ = slab[0].window
    assert stop - start == 18 and start % 3 == 0
    total[start:stop] += weights
  np.testing.assert_allclose(total, 1.0, rtol=1e-6)
  assert len(tiling.slabs) == 4 and tiling.slabs[-1][0].window[0][1] == 42


def test_a_stage_that_attends_over_time_has_no_seams():
  """Cut instead of blended, the same windows jump where they meet."""
  spec, rng = stretched(ATTENDS, 14), np.random.default_rng(0)
  small = np.repeat(rng.uniform(-1, 1, (1, 1, 8, 102, 3)).astype(np.float32), 14, axis=1)
  options = dict(
    keys=sample_keys([Sample("a", 0, 0)], "tsr1"),
    text=rng.standard_normal((1, 1, 5, 16)).astype(np.float32),
    text_mask=np.ones((1, 1, 5), bool),
    small=small,
    sampling=dataclasses.replace(spec.sampling, steps=3),
  )
  params = tiny.random_params(ATTENDS, 1)
  smooth = blended(stage_tiling(ATTENDS), spec)
  assert smooth.weights is not None
  made = sample_stage(Stage(spec), params, tiling=smooth, **options)
  starts = [slab[0].window[0][0] for slab in smooth.slabs]
  cut = []
  for n, start in enumerate(starts):
    stop = starts[n + 1] + 4 if n + 1 < len(starts) else start + 18
    cut.append(np.array([1.0 if (start + 4 if n else 0) <= start + k < stop else 0.0 for k in range(18)], np.float32))
  jumpy = sample_stage(Stage(spec), params, tiling=dataclasses.replace(smooth, weights=tuple(cut)), **options)
  seams = [start + 4 for start in starts[1:]]

  def excess(clip):
    """Mean change at the seams over that elsewhere."""
    change = np.abs(np.diff(clip[0], axis=0)).mean(axis=(1, 2, 3))
    return change[[seam - 1 for seam in seams]].mean() / np.delete(change, [seam - 1 for seam in seams]).mean()

  assert excess(made) < excess(jumpy)


def test_tiles_of_stages_that_attend(cascade):
  base, tsr1, ssr1 = cascade.spec.stages
  with pytest.raises(UserError, match="tile frames=1: stage base takes frames whole"):
    make_request(cascade, DRAW, seconds=3, overrides=Overrides(tile={"base": (1, 0, 0)}))
  assert longer.cut_stage(cascade, longer.to_length([base], 9)[0]).window == base.output.array[:3]
  keys = sample_keys([Sample("a", 0, 0)], "base")
  first, second = (jax.random.key_data(longer.window_keys(keys, n)) for n in (0, 1))
  assert np.array_equal(first, jax.random.key_data(keys)) and not np.array_equal(first, second)
