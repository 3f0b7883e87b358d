"""Weights that are no numbers are refused by name at every door, before anything is written."""

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ivid.sample.cascades import load_text, write_cascade
from ivid.spec.errors import UserError
from ivid.text import encoder, t5
from ivid.text.checkpoints import importing, t5x
from ivid.weights.cascades import file_sha256, open_cascade
from ivid.weights.ema import load_ema
from ivid.weights.finite import count_nonfinite
from ivid.weights.opening import open_stage
from ivid.weights.tensors import open_weights, read_weights, write_weights
from tests.sample import tiny
from tests.text import t5_trees


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_counts(dtype):
  rng = np.random.default_rng(0)
  array = rng.normal(size=(700, 900)).astype(dtype)
  largest = ml_dtypes.finfo(dtype).max
  array[0, 0], array[0, 1], array[0, 2] = largest, -largest, 0.0
  assert count_nonfinite(array) == 0
  for n, value in enumerate((np.nan, np.inf, -np.inf)):
    array[17 * n, 899 - n] = value
  assert count_nonfinite(array) == count_nonfinite(array.T) == 3 and count_nonfinite(array[:, ::2]) <= 3
  assert count_nonfinite(array[17, 898]) == 1 and count_nonfinite(array[:0]) == 0 == count_nonfinite(np.arange(3))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp("made")
  tiny.write_tiny(folder)
  return folder


def spoil(path, name, value=np.nan):
  """Puts a value into a parameter of a safetensors file; its place in the first axis is the last."""
  state = safetensors.numpy.load_file(path)
  state[name] = np.array(state[name])
  state[name][-1] = value
  with open(path, "rb") as file:
    notes = json.loads(file.read(int.from_bytes(file.read(8), "little"))).get("__metadata__")
  safetensors.numpy.save_file(state, path, metadata=notes)
  return state[name][-1].size


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_stage_of_a_cascade(made, tmp_path, value):
  shutil.copytree(made / "tiny", tmp_path / "tiny")
  path = tmp_path / "tiny" / "base" / "weights.safetensors"
  name = sorted(safetensors.numpy.load_file(path))[0]
  count = spoil(path, name, value)
  entry = json.loads(path.with_name("spec.json").read_text())
  path.with_name("spec.json").write_text(json.dumps(entry | {"sha256": file_sha256(path)}))
  for read in (lambda: open_cascade(tmp_path / "tiny").load_stage("base"), lambda: open_stage(str(tmp_path / "tiny"), "base", flag="--x")):
    with pytest.raises(UserError, match=rf"weights.safetensors: parameter {name}: {count} of \d+ values are NaN or infinite"):
      read()


def test_a_text_encoder_of_a_cascade(made, tmp_path):
  shutil.copytree(made / "tiny", tmp_path / "tiny")
  spoil(tmp_path / "tiny" / "text" / "weights.safetensors", "token_embedder/embedding")
  with pytest.raises(UserError, match="parameter token_embedder/embedding: 16 of 6144 values are NaN or infinite, expected numbers"):
    load_text(open_cascade(tmp_path / "tiny"))


def test_a_text_encoder_read_into_its_shards(made, tmp_path):
  """Each process reads its parts alone, and trusts the recorded hash."""
  from ivid.parallel.mesh import make_mesh
  from ivid.runs.text import encoder_placement
  from ivid.spec.run import MeshSpec

  shutil.copytree(made / "text", tmp_path / "text")
  spoil(tmp_path / "text" / "weights.safetensors", "encoder/layers_0/mlp/wo/kernel")
  found = encoder.load_encoder(tmp_path / "text", placement=encoder_placement(make_mesh(MeshSpec(data=1, fsdp=-1))), batch_size=8)
  with pytest.raises(Exception, match="parameter encoder/layers_0/mlp/wo/kernel: .* values are NaN or infinite"):
    found.embed(["a"])


def test_the_average_of_a_run(tmp_path, monkeypatch):
  from tests.test_formats import FORMAT0

  with pytest.MonkeyPatch.context() as patch:
    import orbax.checkpoint as ocp

    restore = ocp.StandardCheckpointHandler.restore

    def spoiled(self, *args, **kwargs):
      leaves, tree = jax.tree.flatten(restore(self, *args, **kwargs))
      return jax.tree.unflatten(tree, [leaves[0].at[..., 0].set(jax.numpy.nan), *leaves[1:]])

    patch.setattr(ocp.StandardCheckpointHandler, "restore", spoiled)
    for read in (lambda: load_ema(FORMAT0 / "run"), lambda: open_stage(str(FORMAT0 / "run"), "base", flag="--teacher")):
      with pytest.raises(UserError, match=r"checkpoint .*60: ema/[A-Za-z_0-9/]+: \d+ of \d+ values are NaN or infinite"):
        read()
  load_ema(FORMAT0 / "run")


@pytest.mark.parametrize("form", ["hugging face", "t5x", "msgpack"])
@pytest.mark.parametrize("fresh", [True, False])
def test_an_import_writes_nothing(tmp_path, form, fresh):
  flat = t5_trees.flat()
  flat["encoder/layers_1/mlp/wi_0/kernel"][3, 5] = np.inf
  source = tmp_path / "source"
  if form == "hugging face":
    source.mkdir()
    safetensors.numpy.save_file(t5_trees.torch_names(flat), source / "model.safetensors")
  else:
    t5x.write_t5x(source, t5_trees.nested(flat))
  if form == "msgpack":
    import flax.serialization

    (tmp_path / "file").write_bytes(flax.serialization.msgpack_serialize({"target": t5_trees.nested(flat)}))
    source = tmp_path / "file"
  out = tmp_path / "out"
  if not fresh:
    out.mkdir()
    (out / "mine.txt").write_text("mine")
  with pytest.raises(UserError, match="parameter .*(wi_0|wi_0.weight|kernel).*: 1 of 384 values are NaN or infinite"):
    importing.import_encoder(source, out, tokenizer="bytes", param_dtype="float32")
  assert [path.name for path in out.iterdir()] == ["mine.txt"] if not fresh else not out.exists()


def test_a_bundle_writes_nothing(made, tmp_path):
  cascade = open_cascade(made / "tiny")
  spec = cascade.check("base").spec
  params = jax.tree.map(lambda a: np.where(a == a.max(), np.nan, a), tiny.random_params(spec, 3))
  with pytest.raises(UserError, match="weights.safetensors is not written: parameter .* values are NaN or infinite"):
    write_cascade(tmp_path / "new", cascade.spec, {"base": (spec, params, 3)}, made / "text")
  assert list(tmp_path.iterdir()) == []


def test_numbers_that_another_type_does_not_hold(tmp_path):
  write_weights(tmp_path / "a.safetensors", {"a": np.array([1e300, 1.0]), "b": np.array([1e39])})
  assert np.isfinite(np.asarray(open_weights(tmp_path / "a.safetensors")["a"])).all()
  with pytest.raises(UserError, match="parameter b as float32: 1 of 1 values are NaN or infinite|parameter a as float32: 1 of 2 values"):
    read_weights(tmp_path / "a.safetensors")
  with pytest.raises(UserError, match="parameter a: 1 of 2 values are NaN or infinite"):
    write_weights(tmp_path / "b.safetensors", {"a": np.array([1e300, 1.0])}, dtype=np.float16)
  assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_no_more_memory_than_a_block(tmp_path):
  import tracemalloc

  array = np.zeros((1 << 24,), np.float32)
  array[-1] = np.nan
  tracemalloc.start()
  assert count_nonfinite(array) == 1
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < array.nbytes / 16


def test_a_plain_encoder_of_the_spec_passes(tmp_path):
  encoder.save_encoder(tmp_path / "text", tiny.TEXT, t5.init_params(jax.random.key(0), tiny.TEXT))
  encoder.load_encoder(tmp_path / "text")
