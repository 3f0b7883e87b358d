"""Requests that ask for more than there can be are refused before memory is taken, and metadata that were edited before any work."""

import copy

import numpy as np
import pytest

from ivid.sample import outputs, plan
from ivid.sample.keys import Sample
from ivid.sample.requests import Draw, make_request, repeat_request
from ivid.sample.runner import Clip
from ivid.spec.errors import UserError


@pytest.mark.parametrize(
  "draw, message",
  [
    (dict(count=10**9), "num_samples=1000000000: expected at most 100000"),
    (dict(count=60_000, prompts=("a", "b")), "num_samples=60000 of 2 prompts: expected at most 100000 clips in all"),
    (dict(number=-1), "first_sample=-1: expected 0 or more"),
    (dict(seed=2**63), "seed=9223372036854775808: expected at most"),
    (dict(prompts=("a" * 100_000,)), "prompt 'aaa.* has 100000 characters: expected at most 65536"),
  ],
)
def test_what_is_drawn(draw, message):
  with pytest.raises(UserError, match=message):
    Draw(**{"prompts": ("a",), **draw})


def test_batches_and_steps(cascade):
  for options, message in (
    (dict(batch_size=10**9), "batch_size=1000000000: expected 1 or more, at most 65536"),
    (dict(overrides=plan.Overrides(steps=10**9)), "steps=1000000000: expected at most 10000"),
  ):
    with pytest.raises(UserError, match=message):
      make_request(cascade, Draw(("a",)), **options)


def test_what_is_held_between_two_steps(cascade, monkeypatch):
  stages = cascade.spec.stages
  need = 1000 * (2 * 24 * 16 + 4 * 8 * 12 * 3) + 10 * 4 * 16 * 24 * 3 * plan.STATE_BYTES
  monkeypatch.setattr(plan, "clip_memory", lambda: need)
  plan.check_memory(cascade.spec.text, stages, samples=1000, batch_size=10)
  monkeypatch.setattr(plan, "clip_memory", lambda: need - 1)
  with pytest.raises(UserError, match="1000 clips, 10 at a time, need .* GB between two steps: expected fewer, as there are .* GB"):
    plan.check_memory(cascade.spec.text, stages, samples=1000, batch_size=10)


def changed(metadata, path, value):
  metadata = copy.deepcopy(metadata)
  *way, last = path
  place = metadata
  for key in way:
    place = place[key]
  place[last] = value
  return metadata


@pytest.mark.parametrize(
  "path, value, message",
  [
    (("stages", 0, "sampling", "steps"), 10**9, "sampling.steps=1000000000: expected at most 10000"),
    (("stages", 0, "sampling", "steps"), 2.5, r"stages\[0\].sampling.steps=2.5: expected int"),
    (("stages", 0, "sampling", "guidance", "weight"), float("nan"), "sampling.guidance.weight=nan: expected 0 or more"),
    (("stages", 0, "sampling"), None, r"stages\[0\].sampling=None: expected a section"),
    (("stages", 0, "weights_sha256"), 3, r"stages\[0\].weights_sha256=3: expected str"),
    (("stages", 0, "name"), "../base", r"unknown stage '../base'"),
    (("stages", 0, "aug_snr"), 5.0, "stage base has aug_snr=5.0: expected null"),
    (("stages", 1, "aug_snr"), None, "stage tsr1 has aug_snr=None: expected the power ratio"),
    (("stages", 1, "aug_snr"), float("inf"), "aug_snr=inf: expected a positive power ratio"),
    (("stages", 0, "tile"), [1, 2], r"tile=\(1, 2\): expected frames, height and width"),
    (("stages", 0, "tile"), [10**9, 0, 0], "tile=1000000000: expected at most"),
    (("stages",), [], "stages is empty"),
    (("batch", "size"), 10**9, "batch.size=1000000000: expected at most 65536"),
    (("batch", "row"), 2, "batch.row=2: expected 0 to 1, as batch.size=2"),
    (("batch",), None, "batch=None: expected a section"),
    (("seed",), "3", "seed='3': expected int"),
    (("seed",), 10**400, "seed=1000.*: expected at most"),
    (("prompt",), ["a"], "prompt=.*: expected str"),
    (("cascade", "name"), "../../x", "cascade.name '../../x': expected a name without slashes"),
    (("input",), 3, "input=3: expected a section"),
    (("note",), "mine", "unknown key 'note'"),
  ],
)
def test_metadata_that_were_edited(cascade, path, value, message):
  stages = cascade.spec.stages
  clip = Clip(stages[-1], 0, np.zeros(stages[-1].output.array, np.uint8), 2, 1)
  metadata = outputs.clip_metadata(cascade, list(stages), Sample("a red ball", 3, 1), clip, tiles={}, source=None)
  request = repeat_request(cascade, metadata, said_by="a.json")
  assert len(request.samples) == 2 and request.keep == {1} and request.stages == stages
  with pytest.raises(UserError, match=message) as error:
    repeat_request(cascade, changed(metadata, path, value), said_by="a.json")
  assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_stages_of_metadata_follow_one_another(cascade):
  stages = cascade.spec.stages
  clip = Clip(stages[-1], 0, np.zeros(stages[-1].output.array, np.uint8), 2, 1)
  metadata = outputs.clip_metadata(cascade, list(stages), Sample("a red ball", 3, 1), clip, tiles={}, source=None)
  for chosen in ([0, 2], [1, 0, 2], [0, 0]):
    with pytest.raises(UserError, match="the clip was made by stages .*: expected some that follow one another of base, tsr1, ssr1"):
      repeat_request(cascade, metadata | {"stages": [metadata["stages"][n] for n in chosen]}, said_by="a.json")
