"""CascadeFolder folders: what they hold, what is refused, and that nothing is lost."""

import dataclasses
import json
import os
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest

from ivid.config import load_run
from ivid.sample.cascades import load_text, write_cascade
from ivid.spec import convert
from ivid.spec.sampling import SamplingSpec
from ivid.weights.cascades import CASCADE_FILE, SPEC_FILE, WEIGHTS_FILE, open_cascade
from ivid.weights.opening import find_cascade
from tests.sample import tiny


@pytest.fixture(scope="module")
def stages(cascade):
  return tiny.trained_stages(cascade.spec)


@pytest.fixture(scope="module")
def template(cascade, stages, tmp_path_factory):
  folder = tmp_path_factory.mktemp("template")
  shutil.copytree(cascade.folder / "text", folder / "text")
  write_cascade(folder / "out", cascade.spec, {"base": stages["base"]}, folder / "text")
  return folder


@pytest.fixture
def base_only(cascade, stages, template, tmp_path):
  """A folder where only the base is trained, and what a bundle is made of."""
  folder = tmp_path / "base_only"
  shutil.copytree(template, folder)
  return folder, cascade.spec, stages


def rewrite(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(cascade, stages):
  assert cascade.spec == open_cascade(cascade.folder).spec
  assert all(cascade.trained(name) for name in cascade.spec.stage_names)
  for name, (spec, params, step) in stages.items():
    entry = cascade.check(name)
    assert (entry.spec, entry.step) == (spec, step)
    stored = jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16).astype(np.float32), params)
    jax.tree.map(np.testing.assert_array_equal, cascade.load_stage(name), stored)
  text = load_text(cascade, cascade.spec.stage_names)
  assert text.hash == cascade.spec.stages[0].text_encoder
  manifest = json.loads((cascade.folder / CASCADE_FILE).read_text())["manifest"]
  assert {name: entry["step"] for name, entry in manifest.items()} == {"base": 100, "tsr1": 101, "ssr1": 102}


def test_nothing_temporary_stays(cascade):
  assert sorted(p.name for p in cascade.folder.iterdir()) == ["base", "cascade.json", "ssr1", "text", "tsr1"]
  assert [p.name for p in cascade.folder.parent.iterdir() if p.name.startswith(".")] == []


def test_bundling_one_stage_keeps_the_others(base_only):
  folder, spec, stages = base_only
  cascade = open_cascade(folder / "out")
  assert cascade.trained("base") and not cascade.trained("tsr1")
  kept = cascade.check("base")
  write_cascade(folder / "out", spec, {"tsr1": stages["tsr1"]}, folder / "text")
  assert cascade.check("base") == kept and cascade.check("tsr1").step == 101
  newer = {"base": (*stages["base"][:2], 500)}
  write_cascade(folder / "out", spec, newer, folder / "out" / "text")
  assert cascade.check("base").step == 500 and cascade.check("tsr1").step == 101


def test_untrained_stages_are_refused(base_only):
  folder, spec, stages = base_only
  cascade = open_cascade(folder / "out")
  with pytest.raises(ValueError, match="stage tsr1 of cascade tiny was never trained: .* has base"):
    cascade.load_stage("tsr1")
  with pytest.raises(ValueError, match="stage ssr1 is at step 0: expected a stage that was trained"):
    write_cascade(folder / "new", spec, {"ssr1": (*stages["ssr1"][:2], 0)}, folder / "text")
  assert not (folder / "new").exists()
  rewrite(folder / "out" / "base" / SPEC_FILE, step=0)
  with pytest.raises(ValueError, match="stage base of cascade tiny was never trained: its weights are of step 0"):
    cascade.check("base")
  with pytest.raises(ValueError, match="unknown stage 'bas': did you mean 'base'"):
    cascade.check("bas")


def test_other_functions_are_refused_and_sampling_defaults_are_not(base_only):
  folder, spec, stages = base_only
  base, params, step = stages["base"]
  wider = dataclasses.replace(base, unet=dataclasses.replace(base.unet, embed_dim=32))
  with pytest.raises(ValueError, match="weights given for stage base are of another stage: unet.embed_dim=32, expected 16"):
    write_cascade(folder / "new", spec, {"base": (wider, params, step)}, folder / "text")
  rewrite(folder / "out" / "base" / SPEC_FILE, spec=convert.to_dict(wider))
  with pytest.raises(ValueError, match="holds weights of another stage than base: unet.embed_dim=32, expected 16"):
    open_cascade(folder / "out").check("base")
  same = dataclasses.replace(base, sampling=SamplingSpec(steps=99))
  rewrite(folder / "out" / "base" / SPEC_FILE, spec=convert.to_dict(same))
  assert open_cascade(folder / "out").check("base").step == 100


def test_weights_trained_in_bfloat16_are_sampled_as_the_cascade_says(base_only):
  folder, spec, stages = base_only
  base, params, step = stages["base"]
  rough = dataclasses.replace(base, unet=dataclasses.replace(base.unet, dtype="bfloat16"))
  cascade = write_cascade(folder / "new", spec, {"base": (rough, params, step)}, folder / "text")
  assert cascade.check("base").spec.unet.dtype == "bfloat16" and cascade.spec.stage("base").unet.dtype == "float32"
  assert jax.tree.leaves(cascade.load_stage("base"))[0].dtype == np.float32


def test_stages_swapped_on_disk_are_refused(base_only):
  folder, spec, stages = base_only
  write_cascade(folder / "out", spec, {"tsr1": stages["tsr1"]}, folder / "text")
  os.rename(folder / "out" / "tsr1", folder / "out" / "ssr1")
  with pytest.raises(ValueError, match="holds weights of another stage than ssr1: name='tsr1', expected 'ssr1'"):
    open_cascade(folder / "out").check("ssr1")


def test_another_text_encoder_is_refused(base_only):
  folder, spec, stages = base_only
  base, params, step = stages["base"]
  other = dataclasses.replace(base, text_encoder="0" * 64)
  with pytest.raises(ValueError, match="stage base was trained with the text encoder 000000000000, this one is "):
    write_cascade(folder / "new", spec, {"base": (other, params, step)}, folder / "text")
  rewrite(folder / "out" / "base" / SPEC_FILE, spec=convert.to_dict(other))
  with pytest.raises(ValueError, match="stage base was trained with the text encoder 000000000000"):
    load_text(open_cascade(folder / "out"), ("base",))


def test_damaged_weights_are_refused(base_only):
  folder, _, _ = base_only
  path, cascade = folder / "out" / "base" / WEIGHTS_FILE, open_cascade(folder / "out")
  whole = path.read_bytes()
  path.write_bytes(whole[:-100])
  with pytest.raises(ValueError, match=f"weights.safetensors is truncated: {len(whole) - 100} bytes, expected {len(whole)}"):
    cascade.check("base")
  path.write_bytes(whole[:4])
  with pytest.raises(ValueError, match=r"is no readable safetensors file \(4 bytes\)"):
    cascade.check("base")
  path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
  cascade.check("base")
  with pytest.raises(ValueError, match="is damaged: SHA-256"):
    cascade.load_stage("base")
  path.unlink()
  with pytest.raises(ValueError, match="no weights at"):
    cascade.check("base")


def test_folders_that_are_no_cascade(tmp_path, base_only):
  folder, spec, stages = base_only
  with pytest.raises(ValueError, match="no cascade at .*: expected a folder with cascade.json"):
    open_cascade(tmp_path / "nowhere")
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "notes.txt").write_text("keep")
  with pytest.raises(ValueError, match="is neither a cascade nor empty"):
    write_cascade(tmp_path / "mine", spec, stages, folder / "text")
  assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
  (tmp_path / "mine" / CASCADE_FILE).write_text("{")
  with pytest.raises(ValueError, match="cascade.json is no JSON"):
    open_cascade(tmp_path / "mine")


def test_the_shipped_cascade_is_whole_and_small():
  cascade = find_cascade("nano")
  steps = {name: cascade.check(name).step for name in cascade.spec.stage_names}
  assert list(steps) == ["base", "tsr1", "ssr1", "ssr2", "tsr2", "tsr3", "ssr3"] and min(steps.values()) >= 100
  config = load_run("nano:base").cascade  # whose networks may be newer than the weights
  assert [stage.output for stage in cascade.spec.stages] == [stage.output for stage in config.stages]
  assert sum(path.stat().st_size for path in cascade.folder.rglob("*") if path.is_file()) < 40e6
