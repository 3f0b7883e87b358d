"""Files that older versions of ivid wrote are read for ever: tests/fixtures/format0, made before files carried a format."""

import json
import math
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import tensorstore  # noqa: F401  Orbax's array reader, named here because a missing one shows as a hang

import ivid
from ivid.__main__ import main
from ivid.media.clips import read_clip, read_metadata
from ivid.sample.cascades import load_text, write_cascade
from ivid.sample.outputs import load_metadata
from ivid.spec.formats import FORMAT
from ivid.stage import Stage, unbox
from ivid.weights.cascades import CASCADE_FILE, open_cascade
from ivid.weights.ema import load_ema, load_spec
from ivid.weights.kept import latest_step
from ivid.weights.opening import open_stage
from tests.sample import tiny

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
  for path in (workdir / "checkpoints" / str(STEP + 1) / "meta" / "metadata", workdir / "config.json"):
    assert json.loads(path.read_text())["format"] == FORMAT
  cascade = ivid.load(workdir)  # a work folder as a cascade of its stage
  assert cascade.trained == ("base",) and cascade.folder.check("base").step == STEP + 1
  weights = cascade.folder.folder / "base" / "weights.safetensors"
  written = weights.stat().st_mtime_ns
  assert ivid.load(workdir).trained == ("base",) and weights.stat().st_mtime_ns == written  # not bundled again


def test_a_run_is_started_from():
  spec, ema, step = load_ema(FORMAT0 / "run")
  assert (spec.name, step) == ("base", STEP)
  weights = open_stage(str(FORMAT0 / "run"), "base", flag="train.init_from")[1]
  assert jax.tree.map(np.shape, weights) == jax.tree.map(np.shape, unbox(Stage(spec).abstract_params()))
  stored = jax.tree.map(lambda a: np.asarray(a).astype(ml_dtypes.bfloat16).astype(np.float32), weights)
  jax.tree.map(np.testing.assert_array_equal, stored, open_cascade(FORMAT0 / "cascade").load_stage("base"))


def test_a_clip_is_made_again(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  flags = [f"--cascade={FORMAT0 / 'cascade'}", f"--from_metadata={FORMAT0 / 'clip.json'}", "--out=clip.png"]
  assert main(["sample", *flags]) == 0
  assert json.loads(pathlib.Path("clip.json").read_text())["format"] == FORMAT == read_metadata("clip.png")["format"]
  have = read_clip("clip.png")[0].astype(int)
  want = np.load(FORMAT0 / "clip.npz")["frames"].astype(int)
  assert have.shape == want.shape and np.abs(have - want).max() <= 1


def test_metadata_of_a_clip():
  metadata = load_metadata(str(FORMAT0 / "clip.json"))
  assert (metadata["prompt"], metadata["seed"], metadata["sample"]) == ("a red circle", 7, 0)
  assert [stage["sampling"]["steps"] for stage in metadata["stages"]] == [4, 4]


@pytest.mark.parametrize("left_out", ["steps", "guidance", "guidance.weight"])
def test_metadata_that_leave_out_how_a_clip_was_sampled_are_refused(tmp_path, left_out):
  metadata = json.loads((FORMAT0 / "clip.json").read_text())
  *above, key = left_out.split(".")
  sampling = metadata["stages"][1]["sampling"]
  del (sampling[above[0]] if above else sampling)[key]
  (tmp_path / "clip.json").write_text(json.dumps(metadata))
  with pytest.raises(ValueError, match=rf"clip\.json does not say the {left_out} of stage tsr1: expected metadata as ivid sample writes"):
    load_metadata(str(tmp_path / "clip.json"))


def test_what_a_boolean_meant():
  cascade = open_cascade(FORMAT0 / "cascade")
  shifts = [cascade.check(name).spec.diffusion.logsnr_shift for name in ("base", "tsr1")]
  assert shifts == [0.0, 2 * math.log(64 / math.sqrt(12 * 20))] == [stage.diffusion.logsnr_shift for stage in cascade.spec.stages]


def test_an_old_run_is_bundled_into_an_old_cascade(tmp_path):
  folder = tmp_path / "cascade"
  shutil.copytree(FORMAT0 / "cascade", folder)
  before = open_cascade(folder)
  write_cascade(folder, before.spec, {"base": load_ema(FORMAT0 / "run")}, folder / "text")
  after = open_cascade(folder)
  assert after.spec == before.spec and [after.check(name) for name in ("base", "tsr1")] == [before.check(name) for name in ("base", "tsr1")]
  formats = [json.loads((folder / name).read_text()).get("format") for name in (CASCADE_FILE, "base/spec.json", "tsr1/spec.json")]
  assert formats == [FORMAT, FORMAT, None]


@pytest.mark.parametrize("name", [CASCADE_FILE, "base/spec.json", "text/spec.json", "run", "clip.json"])
def test_files_of_a_newer_ivid_are_refused_in_one_line(name, tmp_path):
  shutil.copytree(FORMAT0, tmp_path, dirs_exist_ok=True)
  path = tmp_path / {"run": f"run/checkpoints/{STEP}/meta/metadata", "clip.json": "clip.json"}.get(name, f"cascade/{name}")
  path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FORMAT + 1}))
  with pytest.raises(ValueError, match=f"was written by a newer ivid: format {FORMAT + 1}, this one reads up to {FORMAT}") as error:
    load_metadata(str(tmp_path / "clip.json"))
    load_ema(tmp_path / "run")
    cascade = open_cascade(tmp_path / "cascade")
    cascade.check("base")
    load_text(cascade)
  assert "\n" not in str(error.value) and str(path.parent if name != "run" else path.parents[1]) in str(error.value)


def test_text_encoders_are_written_in_this_format(tmp_path):
  tiny.write_text(tmp_path)
  assert next(iter(json.loads((tmp_path / "spec.json").read_text()).items())) == ("format", FORMAT)
