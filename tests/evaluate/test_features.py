"""Features kept in parts: by several processes, over again, for more clips, and damaged; with a small network in I3D's place."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from ivid.evaluate import features, fvd, i3d
from ivid.evaluate.features import ClipSet, Convention, Features
from ivid.evaluate.frechet import Moments, frechet, merged
from ivid.spec import measures
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.stage import Filter

SHAPE = ClipShape(9, 4, 6, 3.0)
CONVENTION = Convention(SHAPE)
DIMENSIONS = 6
pytestmark = pytest.mark.usefixtures("small_network")


def clip_set(count, *, seed=0, made=None, level=0.0, name="clips"):
  def clips(numbers):
    for n in numbers:
      if made is not None:
        made.append(n)
      rng = np.random.default_rng([seed, n])
      yield np.clip(rng.normal(128 + level, 20 + 10 * rng.random(3), SHAPE.array), 0, 255).astype(np.uint8)

  return ClipSet(name, dict(seed=seed, level=level), SHAPE, count, 1.5, clips)


def filled(clips, root, convention=CONVENTION, **kwargs):
  found = Features(clips, convention, root)
  found.fill(lambda: jnp.float32(1), **kwargs)
  return found


def test_rows_are_the_networks(tmp_path):
  rows = filled(clip_set(10), tmp_path).read()
  assert rows.shape == (10, 1, DIMENSIONS) and rows.dtype == np.float32
  clip = next(clip_set(10).clips([9]))
  np.testing.assert_allclose(rows[9, 0, :3], clip.mean((0, 1, 2)), rtol=1e-5)
  frames = filled(clip_set(10), tmp_path, Convention(SHAPE, layer="Mixed_5c", still=True)).read()
  assert frames.shape == (10, 9, DIMENSIONS)
  np.testing.assert_allclose(frames[9, 4, :3], clip[4].mean((0, 1)), rtol=1e-5)


@pytest.mark.parametrize("processes", [1, 3, 5])
def test_over_several_processes_the_same(tmp_path, processes):
  made = []
  for process in range(processes):
    filled(clip_set(23, made=made), tmp_path, process=process, processes=processes)
  assert sorted(made) == list(range(23))
  rows = Features(clip_set(23), CONVENTION, tmp_path).read()
  np.testing.assert_array_equal(rows, filled(clip_set(23), tmp_path / "one").read())
  # Each process's statistics, merged, are those of all.
  other = Moments.of(filled(clip_set(23, seed=1), tmp_path).read()[:, 0])
  parts = [Moments.of(rows[process::processes, 0]) for process in range(processes)]
  assert frechet(merged(parts), other) == pytest.approx(frechet(Moments.of(rows[:, 0]), other), rel=1e-9)


def test_nothing_is_made_twice(tmp_path):
  made = []
  first = filled(clip_set(8, made=made), tmp_path)
  assert made == list(range(8)) and not first.missing()
  filled(clip_set(8, made=made), tmp_path)
  assert made == list(range(8))
  more = Features(clip_set(10, made=made), CONVENTION, tmp_path)  # longer: only what is new
  assert more.folder == first.folder and more.missing() == [range(8, 10)]
  more.fill(lambda: jnp.float32(1))
  assert made[8:] == [8, 9]
  np.testing.assert_array_equal(Features(clip_set(6), CONVENTION, tmp_path).read(), more.read()[:6])  # shorter: of the same parts
  assert json.loads((first.folder / features.DESCRIPTION).read_text())["convention"]["weights"] == i3d.SHA256


def test_folders_are_by_convention_weights_and_source(tmp_path):
  other = [
    Features(clip_set(8), Convention(SHAPE, kernel=Filter.BOX), tmp_path),
    Features(clip_set(8), Convention(SHAPE, layer="Mixed_5c", still=True), tmp_path),
    Features(clip_set(8), Convention(SHAPE, weights="0" * 64), tmp_path),
    Features(clip_set(8, seed=1), CONVENTION, tmp_path),
    Features(clip_set(8), CONVENTION, tmp_path),
  ]
  assert len({one.folder for one in other}) == len(other)


def test_a_process_that_stops_leaves_whole_parts(tmp_path):
  def clips(numbers):
    for n in numbers:
      if n == 6:
        raise UserError("a clip that cannot be read")
      yield np.zeros(SHAPE.array, np.uint8)

  broken = ClipSet("broken", dict(broken=1), SHAPE, 10, 1.5, clips)
  with pytest.raises(UserError, match="cannot be read"):
    filled(broken, tmp_path)
  found = Features(broken, CONVENTION, tmp_path)
  assert found.missing() == [range(4, 8), range(8, 10)]
  with pytest.raises(UserError, match="0000004.npy is missing: expected the features of clips 4 to 7"):
    found.read()


def test_damaged_parts(tmp_path):
  found = filled(clip_set(8), tmp_path)
  path = found.folder / "0000004.npy"
  whole = path.read_bytes()
  for data in (whole[:50], whole[:-8], b"", whole.replace(b"<f4", b"<i4")):
    path.write_bytes(data)
    with pytest.raises(UserError, match="0000004.npy is damaged: .*: delete it, and its features are made again"):
      found.read()
  path.unlink()
  assert found.missing() == [range(4, 8)]


def test_clips_of_another_shape_are_refused(tmp_path):
  def clips(numbers):
    return (np.zeros((9 + (n == 5), 4, 6, 3), np.uint8) for n in numbers)

  with pytest.raises(UserError, match="clip 5 of uneven is 10x4x6: expected 9x4x6, as the others"):
    filled(ClipSet("uneven", {}, SHAPE, 8, 1.5, clips), tmp_path)
  with pytest.raises(UserError, match="clips has clips of 9x4x6: expected 16x4x6, as those that they are compared with"):
    Features(clip_set(8), Convention(ClipShape(16, 4, 6, 3.0)), tmp_path)
  with pytest.raises(UserError, match="clips of 8 frames: expected 9 or more, which I3D's logits want"):
    Convention(ClipShape(8, 4, 6, 3.0))
  assert Convention(ClipShape(8, 4, 6, 3.0), layer="Mixed_5c", still=True).name == "frames Mixed_5c"


def test_scores_and_their_report(tmp_path, monkeypatch):
  judged, real = clip_set(40, level=10.0, name="judged"), clip_set(30, seed=1, name="real")
  conventions = fvd.conventions(SHAPE, ("Mixed_5c",))
  scores = fvd.score(judged, real, conventions, tmp_path / "features", bootstrap=20)
  rows = [Features(one, CONVENTION, tmp_path / "features").read()[:, 0] for one in (judged, real)]
  whole, frames = scores
  assert whole.distance.value == pytest.approx(frechet(*map(Moments.of, rows)), rel=1e-9)
  assert whole.distance.low < whole.distance.value < whole.distance.high and not whole.few
  assert whole.distance.value > 250 and abs(frames.distance.infinite / 300 - 1) < 0.5  # three means that are 10 apart
  assert fvd.score(judged, judged, conventions[:1], tmp_path / "features", bootstrap=2)[0].distance.value < 1e-6
  fvd.write_report(tmp_path / "out", scores, judged, real)
  found = json.loads((tmp_path / "out" / fvd.RESULTS).read_text())
  first, second = found["scores"]
  assert (first["metric"], second["metric"]) == ("fvd", "frames Mixed_5c")
  assert (first["clips"], first["real_clips"], first["dimensions"]) == (40, 30, DIMENSIONS)
  assert first["convention"]["kernel"] == "triangle" and first["convention"]["clip"]["frames"] == 9
  assert found["real"] == dict(name="real", seed=1, level=0.0)
  text = fvd.format_scores(scores)
  assert "9 frames of 4x6, squeezed to 224x224 (bilinear), layer Logits of I3D Kinetics-400" in text
  assert "frames Mixed_5c" in text and "FID" not in text.upper()


def test_too_few_clips_are_refused_before_any_work(tmp_path, monkeypatch):
  monkeypatch.setattr(i3d, "load_i3d", lambda: pytest.fail("no work"))
  for sets in ((clip_set(7), clip_set(30)), (clip_set(30), clip_set(7))):
    with pytest.raises(UserError, match="clips has 7 clips: expected 8 or more"):
      fvd.score(*sets, [CONVENTION], tmp_path)


def test_fewer_clips_than_dimensions_are_said(tmp_path, monkeypatch):
  monkeypatch.setattr(measures, "MIN_CLIPS", 5)
  (found,) = fvd.score(clip_set(6), clip_set(30, seed=1), [CONVENTION], tmp_path, bootstrap=2)
  assert found.few and "fewer samples than the 6 dimensions" in fvd.format_scores([found])
