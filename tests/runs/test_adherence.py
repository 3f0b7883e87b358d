"""The curve of adherence during training."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from ivid.config import load_run
from ivid.runs.adherence import adherence_curves, make_adherence, make_image_adherence
from ivid.spec.stage import ClipShape
from ivid.stage import Stage, unbox
from ivid.text.encoder import load_encoder
from ivid.weights.opening import text_encoder_folder


def test_rates_of_each_group_and_the_same_ones_again():
  run = load_run("tiny:base")
  output = ClipShape(frames=8, height=24, width=40, fps=1.5)
  stage = Stage(dataclasses.replace(run.cascade.stage("base"), output=output))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda a: 0.1 * rng.standard_normal(a.shape, np.float32), unbox(stage.abstract_params()))
  call = make_adherence(stage, run, load_encoder(text_encoder_folder(run.data.text_encoder)))
  rates = [call(step, types.SimpleNamespace(ema=params)) for step in (1, 2)]
  for first in rates:
    del first["perf/adherence_seconds"]
  assert rates[0] == rates[1]
  assert {name.split("/")[1] for name in rates[0]} == {"one", "two", "one_held_out", "two_held_out"}
  assert all(0.0 <= value <= 1.0 for value in rates[0].values()) and rates[0]["adherence/one/all"] == 0.0


def sized(name, frames, rows=24):
  """A stage of tiny with a larger output."""
  return Stage(
    dataclasses.replace(load_run("tiny:base").cascade.stage(name), output=ClipShape(frames, rows, rows * 5 // 3, frames * 0.1875))
  )


def test_rates_of_images():
  run, stage = load_run("tiny:base"), sized("base", 4)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda a: 0.1 * rng.standard_normal(a.shape, np.float32), unbox(stage.abstract_params()))
  call = make_image_adherence(stage, run, load_encoder(text_encoder_folder(run.data.text_encoder)))
  rates = [call(step, types.SimpleNamespace(ema=params)) for step in (1, 2)]
  for some in rates:
    assert some.pop("perf/adherence_images_seconds") > 0
  assert rates[0] == rates[1] and all(0.0 <= value <= 1.0 for value in rates[0].values())
  assert {name.split("/")[1] for name in rates[0]} == {"one", "two", "one_held_out", "two_held_out"}
  attributes = {name.split("/")[2] for name in rates[0] if name.startswith("adherence_images/")}
  assert attributes == {"count", "colour", "shape", "size", "background", "all", "plain_shape", "letter"}


class Silent:
  """In place of a text encoder."""

  def embed(self, captions, length):
    return np.zeros((len(captions), length, 256), np.float32), np.zeros((len(captions), length), bool)


@pytest.mark.parametrize(
  ("stage", "data", "frames", "kinds"),
  [
    ("base", "moving_shapes", 0, ["adherence_images", "adherence"]),
    ("base", "moving_shapes", 4, ["adherence_images"]),
    ("base", "tfds:moving_shapes", 4, ["adherence"]),
    ("ssr1", "moving_shapes", 4, ["adherence"]),
  ],
)
def test_which_curves_a_stage_has(monkeypatch, stage, data, frames, kinds):
  run = load_run("tiny:base")
  run = dataclasses.replace(run, train=dataclasses.replace(run.train, frames=frames), data=dataclasses.replace(run.data, name=data))
  made = []
  monkeypatch.setattr("ivid.runs.adherence._curve", lambda name, *_: made.append(name))
  adherence_curves(sized(stage, 8), run, Silent())
  assert made == kinds


def test_images_too_small_are_refused_at_once():
  with pytest.raises(ValueError, match="picture 12x20: expected 24 rows or more"):
    adherence_curves(sized("base", 4, rows=12), load_run("tiny:base"), None)


def test_clips_too_small_are_refused_at_once():
  run = load_run("tiny:base")
  with pytest.raises(ValueError, match="expected .* frames and .* rows or more"):
    make_adherence(Stage(run.cascade.stage("base")), run, None)
