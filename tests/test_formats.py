"""Files that older versions of ivid wrote are read for ever: tests/fixtures/format0, made before files carried a format."""

import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import tensorstore  # noqa: F401  Orbax's array reader, named here because a missing one shows as a hang

from ivid.__main__ import main
from ivid.bin.fit import initial_weights
from ivid.media.clips import read_clip
from ivid.sample.bundle import open_cascade
from ivid.sample.outputs import load_metadata
from ivid.stage import Stage, unbox
from ivid.train.checkpoint import latest_step, load_ema, load_spec

FORMAT0 = pathlib.Path(__file__).parent / "fixtures" / "format0"
STEP = 60


def test_a_run_is_taken_up(tmp_path, capsys):
  workdir = tmp_path / "run"
  shutil.copytree(FORMAT0 / "run", workdir)
  options = (f"train.steps={STEP + 1}", "train.log_every=1", f"data.text_encoder={FORMAT0 / 'cascade' / 'text'}")
  flags = [f"--config={FORMAT0 / 'small.py'}:base", f"--workdir={workdir}", *(f"--config.{option}" for option in options)]
  assert main(["train", *flags]) in (0, None)
  assert f"resuming {workdir} at step {STEP}" in capsys.readouterr().err
  assert latest_step(workdir) == STEP + 1 and load_spec(workdir) == load_spec(FORMAT0 / "run")


def test_a_run_is_started_from():
  spec, ema, step = load_ema(FORMAT0 / "run")
  assert (spec.name, step) == ("base", STEP)
  weights = initial_weights(str(FORMAT0 / "run"), "base")
  assert jax.tree.map(np.shape, weights) == jax.tree.map(np.shape, unbox(Stage(spec).abstract_params()))
  stored = jax.tree.map(lambda a: np.asarray(a).astype(ml_dtypes.bfloat16).astype(np.float32), weights)
  jax.tree.map(np.testing.assert_array_equal, stored, open_cascade(FORMAT0 / "cascade").load_stage("base"))


def test_a_clip_is_made_again(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  flags = [f"--cascade={FORMAT0 / 'cascade'}", f"--from_metadata={FORMAT0 / 'clip.json'}", "--out=clip.png"]
  assert main(["sample", *flags]) == 0
  have = read_clip("clip.png")[0].astype(int)
  want = np.load(FORMAT0 / "clip.npz")["frames"].astype(int)
  assert have.shape == want.shape and np.abs(have - want).max() <= 1


def test_metadata_of_a_clip():
  metadata = load_metadata(str(FORMAT0 / "clip.json"))
  assert (metadata["prompt"], metadata["seed"], metadata["sample"]) == ("a red circle", 7, 0)
  assert [stage["sampling"]["steps"] for stage in metadata["stages"]] == [4, 4]
