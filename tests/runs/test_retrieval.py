"""Training of the network of retrieval: what it learns from, and the run."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from ivid.__main__ import main
from ivid.evaluate.dual_encoder import load_network
from ivid.moving_shapes import grammar
from ivid.runs import retrieval_pool
from ivid.runs.retrieval import NETWORK, train_retrieval
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.retrieval import RetrievalSpec, RetrievalTraining
from ivid.text import encoder, t5
from tests.sample import tiny

CLIP = ClipShape(4, 24, 40, 1.0)
SPEC = RetrievalSpec(CLIP, 2, 4, channels=(8, 16), head_dim=8, maps=4, queries=2, hidden=16, dim=16)
OPTIONS = RetrievalTraining(groups=4, scenes=2, steps=4, batch_size=8)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  """A text encoder with random weights that reads whole captions."""
  folder = tmp_path_factory.mktemp("text")
  spec = dataclasses.replace(tiny.TEXT, max_tokens=128)
  encoder.save_encoder(folder, spec, t5.init_params(jax.random.key(0), spec))
  return folder


def test_batches_hold_scenes_with_one_attribute_changed(text, tmp_path):
  pool = retrieval_pool.open_pool(tmp_path, OPTIONS, CLIP)
  assert pool.clips.shape == (32, *CLIP.array) and pool.group == 4
  embedder = retrieval_pool.embedded(tmp_path / "text", encoder.load_encoder(text), pool.captions, 128)
  make = dict(batch_size=8, length=128, seed=0)
  batches = retrieval_pool.batches(pool, embedder, start=0, **make)
  first, second = next(batches), next(batches)
  assert first["text"].shape == (8, 128, tiny.TEXT.dim) and first["clips"].dtype == np.uint8 and first["same"].trace() == 8
  again = next(retrieval_pool.batches(pool, embedder, start=1, **make))
  for name, array in second.items():
    np.testing.assert_array_equal(array, again[name])
  for start in range(0, 32, 4):
    base, *others = map(grammar.parse, pool.captions[start : start + 4])
    for other in others:
      if len(base.objects) != len(other.objects):  # either of two may be left out
        few, many = sorted((base.objects, other.objects), key=len)
        assert set(few) < set(many) and base.background == other.background
        continue
      fields = ("size", "colour", "shape", "motion")
      differ = sum(getattr(a, f) != getattr(b, f) for a, b in zip(base.objects, other.objects, strict=True) for f in fields)
      assert differ + (base.background != other.background) == 1
  again = retrieval_pool.open_pool(tmp_path, OPTIONS, CLIP)
  np.testing.assert_array_equal(again.clips, pool.clips)
  with pytest.raises(UserError, match="holds the clips of"):
    retrieval_pool.open_pool(tmp_path, dataclasses.replace(OPTIONS, seed=1), CLIP)


def test_equal_captions_are_marked(text, tmp_path):
  """Both scenes of the only group are in one batch: each caption is there twice."""
  pool = retrieval_pool.open_pool(tmp_path, dataclasses.replace(OPTIONS, groups=1), CLIP)
  embedder = retrieval_pool.embedded(tmp_path / "text", encoder.load_encoder(text), pool.captions, 128)
  same = next(retrieval_pool.batches(pool, embedder, batch_size=8, length=128, seed=0, start=0))["same"]
  half = np.array(pool.captions[:4])
  np.testing.assert_array_equal(same, np.tile(half[:, None] == half, (2, 2)))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(data="faces"), "--data=faces: expected moving_shapes or tfds:NAME"),
    (dict(data="tfds:nothing_here"), "nothing_here"),
  ],
)
def test_unknown_data(tmp_path, options, message):
  with pytest.raises(UserError, match=message):
    retrieval_pool.open_pool(tmp_path, dataclasses.replace(OPTIONS, **options), CLIP)


@pytest.mark.slow
def test_a_run_that_is_resumed(text, tmp_path):
  options = dataclasses.replace(OPTIONS, workdir=str(tmp_path / "a"), text=str(text), steps=6)
  assert train_retrieval(dataclasses.replace(options, steps=3), SPEC)
  assert train_retrieval(options, SPEC)
  rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
  assert [row["step"] for row in rows if "train/loss" in row] == [3, 6] and all(np.isfinite(row["train/loss"]) for row in rows)
  network = load_network(tmp_path / "a" / NETWORK)
  assert network.spec.text == str(text) and network.spec.text_dim == tiny.TEXT.dim
  with pytest.raises(UserError, match="checkpoint .* is of another stage: hidden=16, expected 24"):
    train_retrieval(dataclasses.replace(options, steps=9), dataclasses.replace(SPEC, hidden=24))


@pytest.mark.slow
def test_it_learns(text, tmp_path):
  options = dataclasses.replace(OPTIONS, workdir=str(tmp_path), text=str(text), groups=16, steps=200, batch_size=16)
  assert train_retrieval(options, SPEC)
  losses = [row["train/loss"] for row in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()) if "train/loss" in row]
  assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
  ("args", "status", "message"),
  [
    ([], 2, "--workdir is missing: expected the folder of the run, such as runs/retrieval"),
    (["--workdir=a", "--batch_size=0"], 1, "--batch_size=0: expected 2 or more"),
    (["--workdir=a", "--group=0"], 2, "group"),
  ],
)
def test_bad_flags(capsys, args, status, message):
  assert main(["pretrain_retrieval", *args]) == status
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1 and message in lines[0], lines


def test_a_batch_of_broken_groups(text, tmp_path):
  options = dataclasses.replace(OPTIONS, workdir=str(tmp_path), text=str(text), batch_size=6, groups=1, scenes=1)
  with pytest.raises(UserError, match="--batch_size=6: expected a multiple of 4"):
    train_retrieval(options, SPEC)
