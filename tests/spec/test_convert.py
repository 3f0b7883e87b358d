"""Specs survive JSON, and wrong configs name what is wrong."""

import dataclasses
import json

import pytest

from ivid.config import load_run
from ivid.spec import convert
from ivid.spec.cascade import CascadeSpec
from ivid.spec.run import TrainSpec
from ivid.spec.sampling import SamplerKind, SamplingSpec
from ivid.spec.stage import LowresSpec, StageSpec

NANO = load_run("nano:base").cascade


def test_json_round_trip():
  assert convert.from_dict(CascadeSpec, json.loads(json.dumps(convert.to_dict(NANO)))) == NANO


def test_stage_round_trip_keeps_every_field():
  stage = dataclasses.replace(NANO.stage("ssr1"), text_encoder="abc", sampling=SamplingSpec(sampler=SamplerKind.ANCESTRAL, gamma=0.7))
  assert convert.from_dict(StageSpec, json.loads(json.dumps(convert.to_dict(stage)))) == stage


def test_unknown_key_names_the_nearest():
  with pytest.raises(ValueError, match=r"unknown key 'sampling.step': did you mean 'steps'\?"):
    convert.from_dict(SamplingSpec, {"step": 3}, "sampling")


def test_unknown_choice_names_the_nearest():
  with pytest.raises(ValueError, match=r"sampler='dim': did you mean 'ddim'\?"):
    convert.from_dict(SamplingSpec, {"sampler": "dim"})


@pytest.mark.parametrize(("key", "value"), [("steps", 2.5), ("steps", True), ("gamma", "a"), ("sampler", 3)])
def test_wrong_type(key, value):
  with pytest.raises(ValueError, match=key):
    convert.from_dict(SamplingSpec, {key: value})


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ({"phases": 3}, "phases=3: expected a list"),
    ({"phases": "ab"}, "phases='ab': expected a list"),
    ({"crop": 3}, "crop=3: expected a section"),
  ],
)
def test_wrong_shape(value, message):
  with pytest.raises(ValueError, match=message):
    convert.from_dict(TrainSpec, value)


def test_missing_key():
  with pytest.raises(ValueError, match="missing key 'input' of LowresSpec"):
    convert.from_dict(LowresSpec, {})


def test_integer_is_a_float():
  assert convert.from_dict(SamplingSpec, {"gamma": 1}) == SamplingSpec(gamma=1.0)
