"""Metrics that see clips one after the other say what a whole evaluation does."""

import numpy as np
import pytest

from ivid.evaluate import fvd, i3d
from ivid.evaluate.clip_sets import real_clips
from ivid.evaluate.features import ClipSet
from ivid.evaluate.meters import METERS, Occasion
from ivid.evaluate.prompts import seeded_prompts
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.scene import make_scene
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.real import RealClips

SHAPE = ClipShape(16, 24, 40, 3.0)
PROMPTS = seeded_prompts(0, 3)
DRAWN = RealClips()


def occasion(tmp_path, *, shape=SHAPE, prompts=PROMPTS, wanted=DRAWN):
  return Occasion(shape, shape.width / shape.height, prompts, 0, wanted, tmp_path / "features")


def clip(n):
  """What prompt n asks for; the fourth shows what the fifth does."""
  scene = make_scene(0, n, said=PROMPTS[n + (n == 3)].attributes)
  return rounded(draw(scene, times=np.arange(16) / 3, height=24, width=40))


def figures(made):
  for n, prompt in enumerate(PROMPTS):
    made.add(prompt, clip(n))
  return made.figures()


def test_adherence(tmp_path):
  found = figures(METERS["adherence"].make(occasion(tmp_path)))
  assert (found["all"]["right"], found["all"]["of"]) == (11, 12) and len(found["groups"]) == 4
  assert found["groups"][PROMPTS[3].group]["all"]["right"] == 2
  assert METERS["adherence"].shown(found) == "91.7 (64.6 to 98.5)"


def test_retrieval_finds_all_drawn_clips_but_the_one_that_shows_another_prompt(tmp_path):
  found = figures(METERS["retrieval"].make(occasion(tmp_path)))
  assert found["r_at_1"] == pytest.approx(11 / 12) and found["clips"] == found["prompts"] == 12 and 0.6 < found["score"] < 0.9
  assert METERS["retrieval"].shown(found) == f"{found['score']:.3f} (91.7)"


@pytest.mark.usefixtures("small_network")
def test_fvd_is_that_of_the_whole_set(tmp_path, monkeypatch):
  monkeypatch.setattr(i3d, "find_weights", lambda: None)
  meter = METERS["fvd"].make(occasion(tmp_path))
  found = figures(meter)
  whole = ClipSet("all", {}, SHAPE, 12, 40 / 24, lambda numbers: map(clip, numbers))
  real = real_clips("moving_shapes", SHAPE, count=12, aspect=40 / 24)
  (want,) = fvd.score(whole, real, fvd.conventions(SHAPE), tmp_path / "other")
  assert found["value"] == pytest.approx(want.distance.value) and found["low"] == pytest.approx(want.distance.low)
  assert found["real_clips"] == 12 and found["convention"] == want.convention.record
  assert METERS["fvd"].shown(found).startswith(f"{want.distance.value:.1f} (")


@pytest.mark.parametrize(
  ("metric", "changes", "message"),
  [
    ("retrieval", dict(prompts=PROMPTS[:3]), "retrieval among 3 different prompts: expected 10 or more"),
    ("adherence", dict(shape=ClipShape(4, 24, 40, 3.0)), "expected 8 frames"),
    ("fvd", dict(shape=ClipShape(4, 24, 40, 3.0)), "clips of 4 frames: expected 9 or more"),
    ("fvd", dict(prompts=PROMPTS[:7]), "the set of prompts has 7 clips: expected 8 or more"),
    ("fvd", dict(wanted=RealClips(real="nowhere")), "real='nowhere': expected moving_shapes"),
    ("fvd", dict(wanted=RealClips(real_clips=2)), "moving_shapes has 2 clips: expected 8 or more"),
  ],
)
def test_what_cannot_be_measured_is_said_at_once(tmp_path, monkeypatch, metric, changes, message):
  monkeypatch.setattr(i3d, "find_weights", lambda: None)
  with pytest.raises(UserError, match=message):
    METERS[metric].make(occasion(tmp_path, **changes))


def test_no_weights_are_said_at_once(tmp_path, monkeypatch):
  def missing():
    raise UserError("FVD wants the weights")

  monkeypatch.setattr(i3d, "find_weights", missing)
  with pytest.raises(UserError, match="wants the weights"):
    METERS["fvd"].make(occasion(tmp_path))
