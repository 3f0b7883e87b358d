"""Checkpoints: exact, on any number of devices, of the right stage, or one clear line."""

import dataclasses
import json
import shutil

import jax
import pytest

from ivid.config import load_run
from ivid.parallel.mesh import make_mesh
from ivid.spec.formats import FORMAT
from ivid.spec.run import CheckpointSpec, MeshSpec
from ivid.train.checkpoint import Checkpointer, Seen
from ivid.train.run import make_training
from ivid.weights.ema import load_ema
from tests.train.trees import assert_equal

RUN = load_run("tiny:base", ["train.optimizer.kind=muon"])
SPEC = RUN.cascade.stage("base")


def training(devices):
  mesh = make_mesh(MeshSpec(data=1, fsdp=-1), jax.devices()[:devices])
  return make_training(SPEC, RUN.train, mesh, max_tokens=8)


@pytest.fixture(scope="module")
def on_eight():
  made = training(8)
  return made, made.init.jit()(jax.random.key(1))


def save(folder, state, stage=SPEC, step=7):
  checkpointer = Checkpointer(folder, CheckpointSpec(), stage)
  checkpointer.save(state.replace(step=jax.numpy.asarray(step, jax.numpy.int32)), Seen(step * RUN.train.batch_size, 2.5))
  checkpointer.close()


@pytest.fixture(scope="module")
def saved(on_eight, tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  save(folder, on_eight[1])
  return folder


def test_from_eight_devices_to_one_and_back(on_eight, saved, tmp_path):
  made, state = on_eight
  single = training(1)
  restored, seen = Checkpointer(saved, CheckpointSpec(), SPEC).restore(single.state)
  assert seen == Seen(7 * RUN.train.batch_size, 2.5) and int(restored.step) == 7
  assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(restored))
  assert_equal(restored.replace(step=0), state.replace(step=0))
  save(tmp_path, restored)
  again, _ = Checkpointer(tmp_path, CheckpointSpec(), SPEC).restore(made.state)
  for leaf, want in zip(jax.tree.leaves(again), jax.tree.leaves(made.state), strict=True):
    assert leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim)
  assert_equal(again.replace(step=0), state.replace(step=0))


def test_every_json_of_a_checkpoint_has_its_format(on_eight, saved, tmp_path):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  path = tmp_path / "checkpoints" / "7" / "data" / "metadata"
  found = json.loads(path.read_text())
  assert found == {"format": FORMAT, "next_index": 7 * RUN.train.batch_size, "flops": 2.5}
  assert json.loads((path.parents[1] / "meta" / "metadata").read_text())["format"] == FORMAT
  path.write_text(json.dumps(found | {"format": FORMAT + 1}))
  with pytest.raises(ValueError, match=f"checkpoint .*7 was written by a newer ivid: format {FORMAT + 1}, this one reads up to {FORMAT}"):
    Checkpointer(tmp_path, CheckpointSpec(), SPEC).restore(on_eight[0].state)


def test_load_ema(on_eight, saved):
  spec, params, step = load_ema(saved)
  assert spec == SPEC and step == 7
  assert_equal(params, on_eight[1].ema)


def test_checkpoint_of_another_stage(on_eight, saved):
  other = dataclasses.replace(SPEC, diffusion=dataclasses.replace(SPEC.diffusion, text_drop=0.25))
  with pytest.raises(ValueError, match=r"is of another stage: diffusion.text_drop=0.1, expected 0.25"):
    Checkpointer(saved, CheckpointSpec(), other).restore(on_eight[0].state)


def test_a_run_goes_on_in_bfloat16(on_eight, saved):
  rough = dataclasses.replace(SPEC, unet=dataclasses.replace(SPEC.unet, dtype="bfloat16"))
  made = make_training(rough, RUN.train, make_mesh(MeshSpec(data=1, fsdp=-1)), max_tokens=8)
  restored, _ = Checkpointer(saved, CheckpointSpec(), rough).restore(made.state)
  assert_equal(restored.replace(step=0), on_eight[1].replace(step=0))


def test_missing_checkpoint(tmp_path):
  with pytest.raises(ValueError, match="no checkpoint in .*expected the work folder of a run"):
    load_ema(tmp_path)


@pytest.mark.parametrize("what", ["arrays", "meta"])
def test_truncated_checkpoint(on_eight, saved, tmp_path, what):
  folder = tmp_path / "run"
  shutil.copytree(saved, folder)
  step = folder / "checkpoints" / "7"
  files = [p for p in ((step / "ema") if what == "arrays" else (step / "meta")).rglob("*") if p.is_file()]
  for path in files:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(ValueError, match="checkpoint .* cannot be read") as error:
    load_ema(folder)
  assert "\n" not in str(error.value)
  with pytest.raises(ValueError, match="checkpoint .* cannot be read"):
    Checkpointer(folder, CheckpointSpec(), SPEC).restore(on_eight[0].state)


def test_another_optimizer_is_named(on_eight, saved):
  adam = dataclasses.replace(RUN.train, optimizer=load_run("tiny:base").train.optimizer)
  other = make_training(SPEC, adam, on_eight[0].mesh, max_tokens=8).state
  with pytest.raises(ValueError, match=r"optimizer.kind=adam: checkpoint .*7 was trained with muon: .* train.init_from=.*checkpoints/7$"):
    Checkpointer(saved, CheckpointSpec(), SPEC, optimizer="adam").restore(other)


def test_old_steps_go_and_periods_stay(on_eight, tmp_path):
  checkpointer = Checkpointer(tmp_path, CheckpointSpec(max_to_keep=1, keep_period=4), SPEC)
  for step in (2, 4, 6, 7):
    checkpointer.save(on_eight[1].replace(step=jax.numpy.asarray(step, jax.numpy.int32)), Seen(step))
  checkpointer.close()
  assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [4, 7]
