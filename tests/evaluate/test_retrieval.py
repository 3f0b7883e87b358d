"""Scores of retrieval, its network's folder, and its report."""

import dataclasses
import json

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest

from ivid.evaluate import dual_encoder, retrieval
from ivid.evaluate.judged import Judging, made_once
from ivid.evaluate.prompts import seeded_prompts
from ivid.moving_shapes import grammar
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.retrieval import RetrievalSpec
from ivid.weights.cascades import file_sha256
from ivid.weights.opening import retrieval_folder

SPEC = RetrievalSpec(
  ClipShape(4, 8, 12, 1.0),
  2,
  2,
  channels=(4, 8),
  head_dim=4,
  maps=3,
  queries=2,
  hidden=8,
  dim=6,
  text_dim=5,
  max_tokens=7,
  text_encoder="fake",
)


class Fake:
  """An encoder of captions whose embeddings follow from their hash."""

  hash = "fake"

  def embed(self, captions, *, length=None):
    rows = [np.random.default_rng(abs(hash(text)) % 2**32).normal(size=(length, SPEC.text_dim)) for text in captions]
    return np.array(rows).astype(ml_dtypes.bfloat16), np.ones((len(captions), length), bool)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("network") / "network"
  params = jax.jit(lambda key: nn.meta.unbox(dual_encoder.init_params(SPEC, key)))(jax.random.key(0))
  dual_encoder.save_network(folder, SPEC, params)
  return folder


@pytest.fixture(scope="module")
def network(folder):
  return dual_encoder.load_network(folder, encoder=Fake())


def judging(prompts, size=(4, 8, 12)):
  rng = np.random.default_rng(0)
  clips = rng.integers(0, 256, (len(prompts), *size, 3), np.uint8)
  return Judging(prompts, dict(clips="here"), dict(clips="here"), 2, lambda keep: (clips[n] for n in sorted(keep)))


def test_ranks_and_precision():
  """Four clips of three prompts; the third clip is closer to the second prompt than to its own, the first prompt has two clips."""
  clips = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0.8, 0.6], [0, 1, 0]])
  scores = retrieval.measure(clips, ["a", "a", "c", "b"], np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]]))
  np.testing.assert_allclose(scores.similarity, [1, 0.8, 0.6, 1])
  assert scores.ranks.tolist() == [1, 1, 2, 1]
  assert scores.r_precision.tolist() == [1, 1, 1]
  assert scores.figures == dict(score=pytest.approx(0.85), r_at_1=0.75, r_precision=1.0, prompts=3, clips=4)
  worse = retrieval.measure(clips[[0, 3, 2, 1]], ["a", "a", "c", "b"], np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]]))
  assert worse.r_precision.tolist() == [0.5, 1, 0]


def test_changed_prompts_differ_in_one_attribute():
  truth = retrieval.drawn_truth(ClipShape(2, 24, 40, 3.0), 8)
  assert len(truth.clips) == len(truth.prompts) == 8 and {prompt.group for prompt in truth.prompts} == {
    "one", "two", "one_held_out", "two_held_out"}  # fmt: skip
  assert {name for _, name, _ in truth.changed} == {"colour", "shape", "size", "motion", "background", "count"}
  for n, name, text in truth.changed:
    before, after = truth.prompts[n].attributes, grammar.parse(text)
    if name == "count":
      assert abs(len(before.objects) - len(after.objects)) == 1
      continue
    pairs = [(name, getattr(one, name), getattr(other, name)) for one, other in zip(before.objects, after.objects, strict=True)
             for name in ("size", "colour", "shape", "motion")]  # fmt: skip
    different = [of for of, one, other in [*pairs, ("background", before.background, after.background)] if one != other]
    assert different == [name]


def test_a_network_comes_back(folder, network):
  again = dual_encoder.load_network(folder, encoder=Fake())
  assert again.hash == network.hash and len(network.hash) == 64 and again.spec == SPEC
  other = dataclasses.replace(SPEC, clip=ClipShape(4, 8, 12, 2.0))
  dual_encoder.save_network(folder.with_name("other"), other, network.params)
  assert dual_encoder.load_network(folder.with_name("other"), encoder=Fake()).hash != network.hash
  dual_encoder.save_network(folder.with_name("renamed"), dataclasses.replace(SPEC, text="elsewhere"), network.params)
  assert dual_encoder.load_network(folder.with_name("renamed"), encoder=Fake()).hash == network.hash


def test_weights_of_another_network(folder, network, tmp_path):
  dual_encoder.save_network(tmp_path, SPEC, network.params)
  path = tmp_path / dual_encoder.SPEC_FILE
  described = json.loads(path.read_text())
  path.write_text(json.dumps(described | dict(dim=7)))
  with pytest.raises(UserError, match=r"is of another network: parameter text/looks/out/kernel has shape \(8, 6\), expected \(8, 7\)"):
    dual_encoder.load_network(tmp_path, encoder=Fake())
  path.write_text(json.dumps(described | dict(head_dim=2)))  # of the same shapes
  with pytest.raises(UserError, match="is damaged, or of another network than"):
    dual_encoder.load_network(tmp_path, encoder=Fake())
  path.write_text(json.dumps(described | dict(text_encoder="other")))
  with pytest.raises(UserError, match="is damaged, or of another network than"):
    dual_encoder.load_network(tmp_path, encoder=Fake())
  dual_encoder.save_network(tmp_path, dataclasses.replace(SPEC, text_encoder="other"), network.params)
  with pytest.raises(UserError, match="was trained with the text encoder other, nano has fake: expected the same"):
    dual_encoder.load_network(tmp_path, encoder=Fake())
  with pytest.raises(UserError, match=r"no retrieval network at .*nowhere: expected spec.json and weights.safetensors"):
    dual_encoder.load_network(tmp_path / "nowhere")


def test_clips_are_fitted():
  clip = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 24, 3), np.uint8)
  found = dual_encoder.fitted(clip, SPEC.clip)
  assert found.shape == SPEC.clip.array and found[:, 0, 0, 0].tolist() == [0, 2, 4, 6]
  assert dual_encoder.fitted(clip[:2], SPEC.clip)[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
  assert dual_encoder.changes(clip.shape, SPEC.clip) == "4 of 8 frames, 24x16 as 12x8"
  assert dual_encoder.changes(SPEC.clip.array, SPEC.clip) == ""


def test_a_report(network, tmp_path, capsys):
  prompts = seeded_prompts(0, 3)
  seen = retrieval.judge_share(judging(prompts, (8, 16, 24)), network, tmp_path, None)
  assert capsys.readouterr().err == "retrieval looks at 4 of 8 frames, 24x16 as 12x8\n"
  figures = retrieval.write_report(tmp_path, judging(prompts), seen, network)
  record = json.loads((tmp_path / retrieval.RESULTS).read_text())
  assert record["network"]["hash"] == network.hash and record["prompts"] == record["clips"] == 12 == len(record["results"])
  assert record["fitted"] == ["4 of 8 frames, 24x16 as 12x8"] and record["made_by"] == dict(clips="here")
  assert record["score"] == pytest.approx(np.mean([row["score"] for row in record["results"]]))
  assert record["r_at_1"] == np.mean([row["rank"] == 1 for row in record["results"]])
  assert network.hash[:12] in (said := retrieval.format_figures(figures, network)) and "12 clips among 12 prompts" in said


def test_shares_see_what_one_process_sees(network, tmp_path):
  prompts = seeded_prompts(0, 3)
  whole = retrieval.judge_share(judging(prompts), network, tmp_path / "whole", None)
  assert retrieval.judge_share(judging(prompts), network, tmp_path, (0, 2)) is None
  parts = retrieval.judge_share(judging(prompts), network, tmp_path, (1, 2))
  for one, other in zip(whole, parts, strict=True):
    np.testing.assert_allclose(one.vector, other.vector, atol=1e-6)


def test_too_few_prompts(network, tmp_path):
  prompts = seeded_prompts(0, 2)
  with pytest.raises(UserError, match="retrieval among 8 different prompts: expected 10 or more, such as 100"):
    retrieval.judge_share(judging([*prompts, *prompts]), network, tmp_path, None)


def test_clips_are_made_once(tmp_path):
  asked = []
  one = judging(seeded_prompts(0, 1))
  source = dataclasses.replace(one, clips=lambda keep: asked.extend(keep) or one.clips(keep))
  once = made_once(source, tmp_path)
  first = list(once.clips([1, 3]))
  again = list(once.clips(range(4)))
  assert sorted(asked) == [0, 1, 2, 3]
  for found, want in zip([first[0], first[1], *again], [*one.clips([1, 3]), *one.clips(range(4))], strict=True):
    np.testing.assert_array_equal(found, want)


@pytest.mark.slow
def test_what_the_network_that_ships_says_of_drawn_clips():
  """Its own figures, as its folder records them."""
  folder = retrieval_folder("nano")
  recorded = json.loads((folder / "validation.json").read_text())
  network = dual_encoder.load_network(folder)
  assert network.hash == recorded["network"]["hash"] and file_sha256(folder / dual_encoder.WEIGHTS_FILE) == recorded["network"]["sha256"]
  found = retrieval.validate(network, retrieval.drawn_truth(network.spec.clip, recorded["prompts"], seed=recorded["seed"]))
  assert found == pytest.approx(recorded["figures"], abs=0.011)  # a clip or two on another processor


def test_the_network_that_ships_is_small():
  assert (retrieval_folder("nano") / dual_encoder.WEIGHTS_FILE).stat().st_size < 6_000_000
