"""The curve of adherence during training."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from ivid.bin.adherence import make_adherence
from ivid.bin.config import load_run, text_encoder_folder
from ivid.spec.stage import ClipShape
from ivid.stage import Stage, unbox
from ivid.text.encoder import load_encoder


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


def test_clips_too_small_are_refused_at_once():
  run = load_run("tiny:base")
  with pytest.raises(ValueError, match="expected .* frames and .* rows or more"):
    make_adherence(Stage(run.cascade.stage("base")), run, None)
