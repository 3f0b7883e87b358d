"""Damaged checkpoints are found, named and passed over, on any number of devices; a full disk leaves the earlier ones whole."""

import errno
import json
import logging
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ivid.config import load_run
from ivid.data.mixture import Drawn
from ivid.parallel.mesh import make_mesh
from ivid.parallel.sharding import with_shardings
from ivid.spec.errors import UserError
from ivid.spec.run import CheckpointSpec, MeshSpec
from ivid.steps import init_state
from ivid.train.checkpoint import Checkpointer, Seen
from ivid.weights.ema import load_ema, load_spec, quiet_orbax, read_arrays
from tests.train.trees import assert_equal

STAGE = load_run("tiny:base").cascade.stage("base")


def on_devices(count):
  """A small state in shards, and the abstract one to restore it to."""
  rng = np.random.default_rng(0)
  params = {"dense": {"kernel": jnp.asarray(rng.standard_normal((16, 8)), jnp.float32), "bias": jnp.arange(8.0)}}
  state = init_state(params, optax.adam(1.0))
  mesh = make_mesh(MeshSpec(data=1, fsdp=-1), jax.devices()[:count])
  shardings = jax.tree.map(lambda a: NamedSharding(mesh, PartitionSpec(*["fsdp"] * (a.ndim > 0))), state)
  return jax.tree.map(jax.device_put, state, shardings), with_shardings(jax.eval_shape(lambda: state), shardings)


@pytest.fixture(scope="module")
def on_eight():
  return on_devices(8)


def at(state, step):
  return state.replace(step=jax.device_put(np.int32(step), state.step.sharding))


def save(folder, state, step=7):
  with Checkpointer(folder, CheckpointSpec(), STAGE) as checkpointer:
    checkpointer.save(at(state, step), Seen(step * 8, 2.5))


def restore(folder, abstract):
  with Checkpointer(folder, CheckpointSpec(), STAGE) as checkpointer:
    return checkpointer.restore(abstract)


@pytest.fixture(scope="module")
def saved(on_eight, tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  save(folder, on_eight[0])
  return folder


def sums(folder, step=7):
  return json.loads((folder / "checkpoints" / str(step) / "meta" / "metadata").read_text())["sums"]


def flip(step, item, name):
  """One bit of one array, stored again as Orbax stores it."""
  tree = jax.tree.map(lambda a: np.array(a), read_arrays(step, item))
  leaf = tree
  for key in name.split("/"):
    parent, leaf = leaf, leaf[int(key) if key.isdigit() else key]
  changed = np.array(leaf).reshape(-1)
  changed.view(np.uint32)[-1] ^= np.uint32(1)
  parent[int(key) if key.isdigit() else key] = changed.reshape(leaf.shape)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(step / item, tree, force=True)


@pytest.mark.parametrize("devices", [1, 2])
def test_sums_are_the_same_on_any_number_of_devices(on_eight, saved, tmp_path, devices):
  restored, _ = restore(saved, on_devices(devices)[1])
  save(tmp_path, restored)
  found = sums(tmp_path)
  assert found == sums(saved) and len(found) == sum(
    len(jax.tree.leaves(part)) for part in (restored.params, restored.ema, restored.opt_state)
  )


@pytest.mark.parametrize(
  ("item", "name"),
  [
    ("params", "dense/kernel"),
    ("ema", "dense/kernel"),
    ("optimizer", "0/nu/dense/bias"),
  ],
)
def test_a_flipped_bit_is_found_and_the_array_named(on_eight, saved, tmp_path, item, name):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  flip(tmp_path / "checkpoints" / "7", item, name)
  with pytest.raises(ValueError, match=f"7 is damaged: {item}/{name} is not what was saved; no other one can be: move .* away to begin"):
    restore(tmp_path, on_eight[1])
  if item == "ema":
    with pytest.raises(ValueError, match=f"7 is damaged: {item}/{name} is not what was saved"):
      load_ema(tmp_path)
  else:
    assert load_ema(tmp_path)[2] == 7  # which reads nothing else


@pytest.mark.parametrize("name", ["_sharding", "_METADATA"])
def test_lists_too_deep_for_tensorstore_do_not_end_the_process(on_eight, saved, tmp_path, name):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  (tmp_path / "checkpoints" / "7" / "ema" / name).write_text('{"ZGVuc2UuYmlhcw==":' + '{"a":' * 100_000 + "1" + "}" * 100_001)
  for read in (lambda: load_ema(tmp_path), lambda: restore(tmp_path, on_eight[1])):
    with pytest.raises(ValueError, match=f"7 cannot be read: its ema/{name} holds lists or objects more than 64 deep"):
      read()


@pytest.mark.parametrize("sums", [True, [1], {"ema/dense/bias": "1"}, {"ema/dense/bias": None}])
def test_sums_that_are_none(on_eight, saved, tmp_path, sums):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  file = tmp_path / "checkpoints" / "7" / "meta" / "metadata"
  file.write_text(json.dumps(json.loads(file.read_text()) | {"sums": sums}))
  for read in (lambda: load_ema(tmp_path), lambda: restore(tmp_path, on_eight[1])):
    with pytest.raises(ValueError, match="7 cannot be read: sums in meta/metadata is .*: expected a whole number for each array"):
      read()


def test_reads_that_end_after_one_has_failed_say_nothing(monkeypatch):
  said = []
  monkeypatch.setattr(logging.getLogger("absl"), "filters", [])
  monkeypatch.setattr(sys, "unraisablehook", said.append)
  quiet_orbax()
  for words in ("Event loop is closed", "another"):
    sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(words)))
  assert [str(raised.exc_value) for raised in said] == ["another"]


def test_checkpoints_without_sums_are_taken_with_a_note(on_eight, saved, tmp_path, capsys):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  path = tmp_path / "checkpoints" / "7" / "meta" / "metadata"
  path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "sums"}))
  restored, _ = restore(tmp_path, on_eight[1])
  assert load_ema(tmp_path)[2] == 7
  assert_equal(restored.replace(step=0), on_eight[0].replace(step=0))
  note = f"checkpoint {tmp_path / 'checkpoints' / '7'} was written without sums of its arrays: they are not checked\n"
  assert capsys.readouterr().err == note * 2


DAMAGE = {
  "marker missing": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
  "nothing but a folder": lambda step: [shutil.rmtree(step), step.mkdir()],
  "an item missing": lambda step: shutil.rmtree(step / "ema"),
  "arrays cut": lambda step: [path.write_bytes(path.read_bytes()[:-9]) for path in (step / "ema").rglob("d/*")],
  "arrays flipped": lambda step: flip(step, "ema", "dense/kernel"),
  "what says of the arrays cut": lambda step: (step / "ema" / "_METADATA").write_text("{"),
  "meta cut": lambda step: (step / "meta" / "metadata").write_text('{"format": 1, "st'),
  "meta no object": lambda step: (step / "meta" / "metadata").write_text("[]"),
  "meta without its stage": lambda step: (step / "meta" / "metadata").write_text('{"format": 1}'),
  "meta is no text": lambda step: (step / "meta" / "metadata").write_bytes(b"\xff\xfe"),
}


@pytest.fixture(scope="module")
def two(on_eight, tmp_path_factory):
  """A run's checkpoints of steps 5 and 7."""
  folder = tmp_path_factory.mktemp("two")
  save(folder, on_eight[0], step=5)
  save(folder, on_eight[0], step=7)
  return folder


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_goes_back_to_the_checkpoint_before_a_damaged_one(on_eight, two, tmp_path, capsys, damage):
  shutil.copytree(two, tmp_path, dirs_exist_ok=True)
  checkpoints = tmp_path / "checkpoints"
  DAMAGE[damage](checkpoints / "7")
  names = sorted(path.name for path in tmp_path.rglob("*"))
  assert load_ema(tmp_path)[2] == 5 and load_spec(tmp_path) == STAGE
  said = capsys.readouterr().err.splitlines()
  assert said and all(line.startswith(f"checkpoint {checkpoints / '7'} ") for line in said)
  assert all(line.endswith("; taking that of step 5 instead") for line in said)
  checkpointer = Checkpointer(tmp_path, CheckpointSpec(), STAGE)
  restored, seen = checkpointer.restore(on_eight[1])
  assert int(restored.step) == 5 and seen == Seen(5 * 8, 2.5)
  assert_equal(restored.replace(step=0), on_eight[0].replace(step=0))
  assert sorted(path.name for path in tmp_path.rglob("*")) == names  # until the run goes on
  checkpointer.begin(5)
  (line,) = capsys.readouterr().err.splitlines()
  assert line.endswith(f"; going back to step 5, and it is put aside as {tmp_path / 'damaged' / '7'}")
  assert [path.name for path in checkpoints.iterdir()] == ["5"] and (tmp_path / "damaged" / "7").is_dir()
  checkpointer.save(at(restored, 7), Seen(7))
  checkpointer.close()
  assert load_ema(tmp_path)[2] == 7 and not capsys.readouterr().err


def test_the_one_that_is_protected_stays(on_eight, tmp_path):
  with Checkpointer(tmp_path, CheckpointSpec(max_to_keep=1), STAGE) as checkpointer:
    assert checkpointer.protect(None) is None and checkpointer.protect(5) is None
    for step in (2, 4, 6, 7):
      checkpointer.save(at(on_eight[0], step), Seen(step))
      assert checkpointer.protect(5) == tmp_path / "checkpoints" / str(min(step, 4))
  assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [4, 7]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_one_line(on_eight, tmp_path, monkeypatch, wrapped):
  """As Orbax raises it in the main thread when a save in the background has failed."""
  checkpointer = Checkpointer(tmp_path, CheckpointSpec(), STAGE)
  checkpointer.save(at(on_eight[0], 5), Seen(5))
  checkpointer.wait()

  def full(self):
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir(exist_ok=True)
    if wrapped:
      raise ValueError("Error writing x: RESOURCE_EXHAUSTED: No space left on device [source locations=...]")
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", full)
  with pytest.raises(UserError) as error:
    checkpointer.save(at(on_eight[0], 7), Seen(7))
  folder = tmp_path / "checkpoints"
  assert str(error.value) == (
    f"cannot write a checkpoint in {folder}: No space left on device; the last checkpoint is of step 5, "
    "and the same command goes on from there"
  )
  assert [path.name for path in folder.iterdir()] == ["5"]
  monkeypatch.undo()
  assert load_ema(tmp_path)[2] == 5


def test_a_step_that_is_asked_for_is_read_or_refused(on_eight, tmp_path):
  state, abstract = on_eight
  for step in (3, 5):
    save(tmp_path, state, step)
  with Checkpointer(tmp_path, CheckpointSpec(), STAGE) as checkpointer:
    restored, seen = checkpointer.restore(abstract, 5)
    assert int(restored.step) == 5 and seen.next_index == 5 * 8
    (tmp_path / "checkpoints" / "5" / "meta" / "metadata").write_text("{")
    with pytest.raises(UserError, match="^--resume_step=5: checkpoint .* cannot be read: .*; other steps that are kept: 3$"):
      checkpointer.restore(abstract, 5)  # and not an earlier one


def test_what_a_run_has_drawn_is_in_its_checkpoints_if_its_batches_changed(on_eight, tmp_path):
  state, abstract = on_eight
  with Checkpointer(tmp_path, CheckpointSpec(), STAGE) as checkpointer:
    checkpointer.save(at(state, 3), Seen(40, 2.5, Drawn(16, 48)))
    checkpointer.wait()
    assert checkpointer.restore(abstract)[1] == Seen(40, 2.5, Drawn(16, 48))
    path = tmp_path / "checkpoints" / "3" / "data" / "metadata"
    path.write_text(path.read_text().replace("48", "-48"))
    with pytest.raises(UserError, match="drawn=.*-48.*: expected 0 or more of each"):
      checkpointer.restore(abstract)
