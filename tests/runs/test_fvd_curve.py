"""The curve of FVD during training, with a small network in I3D's place."""

import dataclasses
import types

import numpy as np
import pytest

from ivid.config import load_run
from ivid.evaluate import i3d
from ivid.evaluate.frechet import measure
from ivid.runs.curves import CURVES
from ivid.runs.fvd_curve import fvd_curves
from ivid.runs.samples import HeldOut, held_out_clips
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.measures import METRICS
from ivid.spec.run import TrainSpec
from ivid.stage import Stage
from tests.evaluate.conftest import small_network  # noqa: F401 a fixture


class Silent:
  """In place of a text encoder."""

  def embed(self, captions, length):
    return np.zeros((len(captions), length, 256), np.float32), np.zeros((len(captions), length), bool)


def sized(frames):
  """The base of tiny at another length, and its run with 9 clips of validation, sampled 4 at a time."""
  run = load_run("tiny:base")
  stage = dataclasses.replace(run.cascade.stage("base"), output=ClipShape(frames, 12, 20, 3.0))
  return stage, dataclasses.replace(run, train=dataclasses.replace(run.train, fvd_clips=9, num_samples=4))


@pytest.mark.usefixtures("small_network")
def test_the_distance_from_the_validation_clips_and_the_same_again(monkeypatch):
  """Clips that are darker than the real ones by what the weights say, four at a time, of which the last three are one too many."""
  batches = []

  def sample(held_out, params, spec, sampling):
    batches.append(held_out.captions)
    assert spec.output.frames == 10 and sampling.steps == 2
    return np.maximum(held_out.real, params) - params

  monkeypatch.setattr(HeldOut, "sample", sample)
  stage, run = sized(10)
  (call,) = fvd_curves(Stage(stage), run, Silent())
  first, again = (call(step, types.SimpleNamespace(ema=np.uint8(20))) for step in (1, 2))
  held = held_out_clips(stage, run, Silent(), 9)
  assert [len(some) for some in batches] == [4] * 6 and [*batches[0], *batches[1], batches[2][0]] == held.captions
  assert first.pop("perf/fvd_seconds") > 0 < again.pop("perf/fvd_seconds") and first == again
  assert set(first) == {"fvd/value", "fvd/low", "fvd/high", "fvd/infinite"} and first["fvd/low"] < first["fvd/value"] < first["fvd/high"]
  network = i3d.make_i3d(None, layers=("x",), still=False, kernel=None)
  features = [np.asarray(network(np.float32(1), clips)["x"])[:, None] for clips in (np.maximum(held.real, 20) - 20, held.real)]
  assert first["fvd/value"] == pytest.approx(measure(*features, seed=run.train.seed).value, rel=1e-3)
  assert call(3, types.SimpleNamespace(ema=np.uint8(0)))["fvd/value"] < 1e-3 < call(3, types.SimpleNamespace(ema=np.uint8(5)))["fvd/value"]


@pytest.mark.usefixtures("small_network")
def test_no_curve_of_a_phase_of_few_frames():
  stage, run = sized(10)
  assert fvd_curves(Stage(stage), dataclasses.replace(run, train=dataclasses.replace(run.train, frames=5)), Silent()) == []


def test_bad_input_is_refused_at_once(monkeypatch):
  with pytest.raises(UserError, match="clips of 4 frames: expected 9 or more"):
    fvd_curves(Stage(sized(4)[0]), sized(4)[1], None)
  with pytest.raises(UserError, match=r"train.fvd_clips=7: expected 8 or more"):
    TrainSpec(fvd_clips=7)

  def missing():
    raise UserError("no weights")

  monkeypatch.setattr(i3d, "load_i3d", missing)
  with pytest.raises(UserError, match="no weights"):
    fvd_curves(Stage(sized(10)[0]), sized(10)[1], Silent())


def test_every_curve_is_of_a_metric_and_off_by_default():
  assert set(CURVES) <= set(METRICS)
  assert [kind.every(TrainSpec()) for kind in CURVES.values()] == [0] * len(CURVES)
  assert CURVES["fvd"].every(TrainSpec(fvd_every=5)) == 5
