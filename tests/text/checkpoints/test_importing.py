"""Public checkpoints to encoders of ours: every form to the same weights, what does not fit by name, and how much memory it takes."""

import dataclasses
import json
import subprocess
import sys
import tracemalloc

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ivid.spec.t5 import t5_spec
from ivid.text import encoder, t5
from ivid.text.checkpoints import importing
from ivid.text.checkpoints import t5x as t5x_format
from ivid.text.placement import Placement, place
from ivid.weights.tensors import open_weights, read_header, write_weights
from tests.text import t5_trees

PARAMS = t5_trees.flat()
STATE = t5_trees.torch_names(PARAMS)
BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def write_form(folder, form):
  """The checkpoint in that form; the path to import."""
  folder.mkdir()
  if form == "single":
    safetensors.numpy.save_file(STATE, folder / "model.safetensors")
  elif form == "sharded":
    extra = {"decoder.final_layer_norm.weight": np.ones(16, np.float32), "lm_head.weight": np.ones((300, 16), np.float32)}
    t5_trees.write_sharded(folder, STATE | {"encoder.embed_tokens.weight": STATE["shared.weight"]} | extra)
  elif form == "embed_tokens":
    renamed = {name.replace("shared.", "encoder.embed_tokens."): array for name, array in STATE.items()}
    safetensors.numpy.save_file(renamed, folder / "t5.safetensors")
    return folder / "t5.safetensors"
  else:
    t5_trees.write_zarr(folder, PARAMS, form)
  return folder


@pytest.mark.parametrize("form", ["single", "sharded", "embed_tokens", "kvstore"])
def test_every_form_gives_the_same_bits(tmp_path, form):
  spec = importing.import_encoder(write_form(tmp_path / "in", form), tmp_path / "out", tokenizer="bytes", dtype="float32", max_tokens=32)
  assert spec == dataclasses.replace(t5_trees.SPEC, dtype="float32")
  have = open_weights(tmp_path / "out" / "weights.safetensors")
  assert have.keys() == PARAMS.keys()
  for name, want in PARAMS.items():
    assert np.asarray(have[name]).tobytes() == want.tobytes(), name
  made = encoder.load_encoder(tmp_path / "out")
  assert (
    made.hash == read_header(tmp_path / "out" / "weights.safetensors")[1]["hash"] == encoder.encoder_hash(spec, t5_trees.nested(PARAMS))
  )


def test_bfloat16_is_the_rule_and_export_brings_it_back(tmp_path):
  spec = importing.import_encoder(write_form(tmp_path / "in", "single"), tmp_path / "ours", tokenizer="bytes")
  assert (spec.dtype, spec.param_dtype) == ("bfloat16", "bfloat16")
  t5x_format.write_t5x(tmp_path / "checkpoint_0", encoder.open_encoder(tmp_path / "ours")[1])
  importing.import_encoder(tmp_path / "checkpoint_0", tmp_path / "again", tokenizer="bytes")
  first, again = (open_weights(tmp_path / name / "weights.safetensors") for name in ("ours", "again"))
  for name, want in PARAMS.items():
    np.testing.assert_array_equal(np.asarray(first[name]), want.astype(ml_dtypes.bfloat16))
    assert np.asarray(first[name]).tobytes() == np.asarray(again[name]).tobytes()
  assert encoder.load_encoder(tmp_path / "ours").hash == encoder.load_encoder(tmp_path / "again").hash


def test_a_published_size_is_recognised_and_held(tmp_path):
  source = write_form(tmp_path / "in", "single")
  with pytest.raises(ValueError, match="unknown T5 'byt5_smal': did you mean 'byt5_small'"):
    importing.import_encoder(source, tmp_path / "out", size="byt5_smal")
  with pytest.raises(ValueError, match=r"byt5_small: parameter encoder/encoder_norm/scale has shape \(16,\), expected \(1472,\)"):
    importing.import_encoder(source, tmp_path / "out", size="byt5_small")
  shapes = traverse_util.flatten_dict(nn.meta.unbox(t5.abstract_params(t5_spec("byt5_small"))), sep="/")
  inferred = importing.infer_spec(shapes, tokenizer="bytes", dtype="bfloat16", param_dtype="bfloat16", max_tokens=256)
  assert inferred == t5_spec("byt5_small")


def test_a_tokenizer_that_lies_beside_or_is_asked_for(tmp_path):
  source = write_form(tmp_path / "in", "single")
  with pytest.raises(ValueError, match="--tokenizer is missing: an embedding of 300 rows needs the path"):
    importing.import_encoder(source, tmp_path / "out")
  (source / "spiece.model").write_bytes(b"nonsense")
  with pytest.raises(ValueError, match="spiece.model' is no readable SentencePiece model"):
    importing.import_encoder(source, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def _without(name):
  return {key: value for key, value in STATE.items() if key != name}


@pytest.mark.parametrize(
  ("state", "message"),
  [
    (_without("encoder.block.1.layer.1.DenseReluDense.wo.weight"), "parameter encoder/layers_1/mlp/wo/kernel is missing"),
    (_without(BIAS), "parameter encoder/relpos_bias/rel_embedding is missing"),
    (STATE | {"encoder.block.1.extra.weight": np.ones(2)}, "unknown parameter encoder.block.1.extra.weight"),
    (STATE | {BIAS: np.ones((32, 3), np.float32)}, "has 8 columns: expected a multiple of the 3 heads"),
    (
      STATE | {"encoder.block.1.layer.0.SelfAttention.k.weight": np.ones((8, 15), np.float32)},
      r"parameter encoder/layers_1/attention/key/kernel has shape \(15, 8\), expected \(16, 8\)",
    ),
    (STATE | {"encoder.final_layer_norm.weight": np.ones(16, np.int8)}, "parameter encoder/encoder_norm/scale has type int8"),
    (STATE | {"encoder.embed_tokens.weight": np.ones((2, 16))}, "expected the same table"),
    ({"decoder.final_layer_norm.weight": np.ones(16)}, "holds a decoder but no encoder"),
    ({"vision.weight": np.ones(16)}, "holds no parameter of a T5 encoder"),
    ({name.replace("wi_0", "wi"): array for name, array in STATE.items() if "wi_1" not in name}, "T5 v1.0, whose MLP has no gate"),
  ],
)
def test_what_does_not_fit_is_named(tmp_path, state, message):
  safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
  with pytest.raises(ValueError, match=message) as error:
    importing.import_encoder(tmp_path, tmp_path / "out", tokenizer="bytes")
  assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_damaged_shards_and_indices_are_named(tmp_path):
  weight_map = t5_trees.write_sharded(tmp_path, STATE)
  index, (name, file) = tmp_path / "model.safetensors.index.json", next(iter(weight_map.items()))
  other = next(f for f in weight_map.values() if f != file)

  def message(content):
    index.write_text(content if isinstance(content, str) else json.dumps({"weight_map": content}))
    with pytest.raises(ValueError) as error:
      importing.open_checkpoint(tmp_path)
    assert "\n" not in str(error.value)
    return str(error.value)

  assert f"parameter {name} is missing in {other}" in message(weight_map | {name: other})
  assert f"parameter {name} of {file} is not in the index" in message({k: v for k, v in weight_map.items() if k != name})
  assert "no weights at" in message(weight_map | {name: "model-3.safetensors"})
  assert "is no JSON" in message('{"weight_map":')
  assert "has no 'weight_map'" in message("{}")
  whole = (tmp_path / file).read_bytes()
  (tmp_path / file).write_bytes(whole[:-10])
  assert f"{file} is truncated: {len(whole) - 10} bytes, expected {len(whole)}" in message(weight_map)
  (tmp_path / file).write_bytes(b"\xff" * 100)
  assert f"{file} is no readable safetensors file (100 bytes)" in message(weight_map)


def test_folders_and_files_of_another_kind(tmp_path):
  def message(path):
    with pytest.raises(ValueError) as error:
      importing.open_checkpoint(path)
    return str(error.value)

  assert "no checkpoint at" in message(tmp_path / "nowhere")
  assert "holds nothing; expected a T5X folder" in message(tmp_path)
  (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
  assert "torch pickles are not read" in message(tmp_path) and "is a torch pickle" in message(tmp_path / "pytorch_model.bin")
  write_form(tmp_path / "checkpoint_100", "kvstore")
  assert f"expected one of {tmp_path / 'checkpoint_100'}" in message(tmp_path)
  (tmp_path / "config.json").write_text('{"feed_forward_proj": "relu"}')
  safetensors.numpy.save_file(STATE, tmp_path / "model.safetensors")
  assert "feed_forward_proj='relu': expected 'gated-gelu'" in message(tmp_path)
  safetensors.numpy.save_file(STATE, tmp_path / "other.safetensors")
  assert "several checkpoints: expected the path of one of model.safetensors, other.safetensors" in message(tmp_path)


def test_eight_bit_floats_are_refused_by_name(tmp_path):
  header = json.dumps({"encoder.final_layer_norm.weight": {"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}}).encode()
  (tmp_path / "t5.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
  with pytest.raises(ValueError, match="parameter encoder.final_layer_norm.weight has type F8_E4M3, expected one of F64"):
    importing.open_checkpoint(tmp_path / "t5.safetensors")


def test_one_parameter_is_in_memory_at_a_time(tmp_path):
  """48 MB in three shards, 4 MB a parameter: whoever keeps more than a few of them at once shows."""
  side = 1024
  arrays = {f"layer_{n}/kernel": np.full((side, side), n, np.float32) for n in range(12)}
  t5_trees.write_sharded(tmp_path, arrays, shards=3)
  leaves = importing.huggingface._all(tmp_path)
  del arrays
  tracemalloc.start()
  write_weights(tmp_path / "out.safetensors", {name: leaf.T for name, leaf in leaves.items()}, dtype=ml_dtypes.bfloat16)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert side * side * 4 < peak < 3 * side * side * 4, peak


def test_leaves_go_straight_into_their_shards(tmp_path):
  """Each device asks for its part alone, devices with the same part ask once, and the sharded encoder says what the whole one says."""
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
  importing.import_encoder(write_form(tmp_path / "in", "single"), tmp_path / "out", tokenizer="bytes", dtype="float32", max_tokens=32)
  spec, leaves = encoder.open_encoder(tmp_path / "out")
  asked = []

  def watched(leaf):
    return dataclasses.replace(leaf, read=lambda index: asked.append(index) or leaf.read(index))

  leaf = leaves["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
  placed = place(watched(leaf), NamedSharding(mesh, PartitionSpec(None, "tensor")), [np.dtype(np.float32)])
  assert sorted(str(index) for index in asked) == [f"(slice(0, 16, None), slice({n}, {n + 12}, None))" for n in (0, 12)]
  np.testing.assert_array_equal(placed, np.asarray(leaf))

  def shardings(spec):
    params = jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec("fsdp") if len(leaf.shape) == 2 else PartitionSpec()), leaves)
    params["encoder"]["relpos_bias"]["rel_embedding"] = NamedSharding(mesh, PartitionSpec("tensor"))
    return Placement(params, NamedSharding(mesh, PartitionSpec("fsdp")))

  whole, sharded = encoder.load_encoder(tmp_path / "out"), encoder.load_encoder(tmp_path / "out", placement=shardings)
  assert whole.hash == sharded.hash
  captions = ["a red star", "two blue rings", "é"]
  (have, mask), (want, _) = sharded.embed(captions), whole.embed(captions)
  np.testing.assert_allclose(have[mask].astype(np.float32), want[mask].astype(np.float32), atol=0.02)
  kernel = sharded._on_device["encoder"]["layers_1"]["mlp"]["wo"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (6, 16)
  sharded.release()
  assert kernel.is_deleted()


@pytest.mark.slow
def test_two_gigabytes_take_less_than_one_beyond_a_shard(tmp_path):
  """Peak memory of the command on four shards of 0.5 GB; about 0.5 GB here, most of it one parameter and JAX."""
  shard = t5_trees.write_two_gigabytes(tmp_path / "in")
  importing_it = ["data", "import-t5", f"--from={tmp_path / 'in'}", f"--out={tmp_path / 'out'}", "--tokenizer=bytes"]
  code = "import resource, subprocess, sys; subprocess.run([sys.executable, '-m', 'ivid', *sys.argv[1:]], check=True); "
  code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
  run = subprocess.run([sys.executable, "-c", code, *importing_it], capture_output=True, text=True, check=True)
  assert int(run.stdout.split()[-1]) * 1024 < shard + 1e9
  assert (tmp_path / "out" / "weights.safetensors").stat().st_size > 0.99e9  # in bfloat16


def test_tables_that_differ_are_two(tmp_path, monkeypatch):
  table = STATE["shared.weight"].copy()
  safetensors.numpy.save_file(STATE | {"encoder.embed_tokens.weight": table}, tmp_path / "model.safetensors")
  monkeypatch.setattr(importing.huggingface, "TABLE_BLOCK", 64)  # so that they are compared in several parts
  importing.open_checkpoint(tmp_path)
  table[123, 4] += 1
  safetensors.numpy.save_file(STATE | {"encoder.embed_tokens.weight": table}, tmp_path / "model.safetensors")
  with pytest.raises(ValueError, match="shared.weight and encoder.embed_tokens.weight differ, first in row 123: expected the same table"):
    importing.open_checkpoint(tmp_path)


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"layer_norm_epsilon": 1e-5}, "config.json: layer_norm_epsilon=1e-05: expected 1e-06"),
    ({"layer_norm_epsilon": None}, "layer_norm_epsilon=None: expected float"),
    ({"relative_attention_max_distance": None}, "config.json: relative_attention_max_distance=None: expected int"),
    ({"relative_attention_max_distance": 0}, "relative_attention_max_distance=0: expected 2 or more"),
    ({"relative_attention_max_distance": 10**9}, "relative_attention_max_distance=1000000000: expected at most"),
    ({"relative_attention_max_distance": "far"}, "relative_attention_max_distance='far': expected int"),
    ({"feed_forward_proj": ["gated-gelu"]}, "feed_forward_proj=.*: expected str"),
    ([], "config.json holds a list: expected a JSON object"),
  ],
)
def test_configs_are_read_by_a_schema(tmp_path, config, message):
  safetensors.numpy.save_file(STATE, tmp_path / "model.safetensors")
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match=message) as error:
    importing.import_encoder(tmp_path, tmp_path / "out", tokenizer="bytes")
  assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_distance_is_honoured_and_one_that_a_published_size_does_not_have_is_refused(tmp_path):
  safetensors.numpy.save_file(STATE, tmp_path / "model.safetensors")
  (tmp_path / "config.json").write_text('{"relative_attention_max_distance": 64, "layer_norm_epsilon": 1e-6, "d_model": 16}')
  assert importing.import_encoder(tmp_path, tmp_path / "out", tokenizer="bytes").relative_distance == 64
  with pytest.raises(ValueError, match="relative_attention_max_distance=64: expected 128, which byt5_small has"):
    importing.import_encoder(tmp_path, tmp_path / "out", tokenizer="bytes", size="byt5_small")


@pytest.mark.parametrize("file", ["../model.safetensors", "/tmp/model.safetensors", "a/b.safetensors", "", 3, None])
def test_an_index_names_files_of_its_folder(tmp_path, file):
  folder = tmp_path / "in"
  folder.mkdir()
  safetensors.numpy.save_file(STATE, tmp_path / "model.safetensors")
  index = {"weight_map": dict.fromkeys(STATE, file)}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  with pytest.raises(ValueError, match="file of parameter .*: expected a name without slashes|has no 'weight_map' of file names"):
    importing.open_checkpoint(folder / "model.safetensors.index.json")


def test_a_tokenizer_of_an_encoder_lies_in_its_folder(tmp_path):
  importing.import_encoder(write_form(tmp_path / "in", "single"), tmp_path / "out", tokenizer="bytes")
  spec = json.loads((tmp_path / "out" / "spec.json").read_text())
  (tmp_path / "out" / "spec.json").write_text(json.dumps(spec | {"tokenizer": "../../tokenizer.model"}))
  with pytest.raises(ValueError, match="spec.json: tokenizer '../../tokenizer.model': expected a name without slashes"):
    encoder.open_encoder(tmp_path / "out")


def test_a_billion_layers(tmp_path):
  name = "encoder.block.999999999.layer.0.layer_norm.weight"
  safetensors.numpy.save_file(STATE | {name: np.ones(16, np.float32)}, tmp_path / "model.safetensors")
  with pytest.raises(ValueError, match="text.layers=1000000000: expected at most 256"):
    importing.import_encoder(tmp_path, tmp_path / "out", tokenizer="bytes")
