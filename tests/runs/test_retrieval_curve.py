"""The curve of retrieval during training."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from ivid.config import load_run
from ivid.evaluate.prompts import seeded_prompts
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.scene import make_scene
from ivid.runs import retrieval_curve
from ivid.runs.retrieval_curve import retrieval_curves
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.stage import Stage, unbox
from ivid.text.encoder import load_encoder
from ivid.weights.opening import text_encoder_folder


def run_of(**data):
  run = load_run("tiny:base")
  train = dataclasses.replace(run.train, adherence_prompts=3)
  return dataclasses.replace(run, train=train, data=dataclasses.replace(run.data, **data))


def stage_of(run, frames=8):
  return Stage(dataclasses.replace(run.cascade.stage("base"), output=ClipShape(frames=frames, height=24, width=40, fps=frames * 0.1875)))


def test_noise_scores_nothing_and_the_same_again():
  run = run_of()
  stage, rng = stage_of(run), np.random.default_rng(0)
  params = jax.tree.map(lambda a: 0.1 * rng.standard_normal(a.shape, np.float32), unbox(stage.abstract_params()))
  (call,) = retrieval_curves(stage, run, load_encoder(text_encoder_folder(run.data.text_encoder)))
  found = [call(step, types.SimpleNamespace(ema=params)) for step in (1, 2)]
  for some in found:
    assert some.pop("perf/retrieval_seconds") > 0
  assert found[0] == found[1] and set(found[0]) == {"retrieval/score", "retrieval/r_at_1", "retrieval/r_precision"}
  assert abs(found[0]["retrieval/score"]) < 0.5 and found[0]["retrieval/r_at_1"] <= 0.25


def test_drawn_clips_are_found(monkeypatch):
  prompts = seeded_prompts(0, 3)

  def drawn(*_):
    for n, prompt in enumerate(prompts):
      scene = make_scene(0, n, said=prompt.attributes)
      yield prompt, rounded(draw(scene, times=np.arange(16) / 3, height=24, width=40))

  monkeypatch.setattr(retrieval_curve, "sampled_prompts", lambda *_: drawn)
  run = run_of()
  (call,) = retrieval_curves(stage_of(run), run, None)
  found = call(1, None)
  assert found["retrieval/r_at_1"] == found["retrieval/r_precision"] == 1.0 and found["retrieval/score"] > 0.6


def test_what_has_no_curve(monkeypatch):
  run = run_of()
  assert retrieval_curves(stage_of(run, frames=4), run, None) == []
  with pytest.raises(UserError, match="train.retrieval_every with data.name=tfds:clips: expected moving_shapes, .* or 0"):
    run = run_of(name="tfds:clips")
    retrieval_curves(stage_of(run), run, None)
  run = run_of()
  run = dataclasses.replace(run, train=dataclasses.replace(run.train, adherence_prompts=1))
  with pytest.raises(UserError, match="retrieval among 4 different prompts: expected 10 or more"):
    retrieval_curves(stage_of(run), run, None)
