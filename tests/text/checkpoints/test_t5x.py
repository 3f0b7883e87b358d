"""T5X checkpoints: every form of them to the same bits, ours as T5X reads it, damaged ones named."""

import functools
import http.server
import threading
import warnings

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts

from ivid.text.checkpoints import t5x as t5x_format
from tests.text import t5_trees

PARAMS = t5_trees.flat()


def check(found, params=PARAMS):
  encoder = {name: leaf for name, leaf in found.items() if not name.startswith("decoder/")}
  assert encoder.keys() == params.keys()
  for name, want in params.items():
    have = np.asarray(encoder[name])
    assert have.dtype == want.dtype and encoder[name].shape == want.shape, name
    assert have.tobytes() == want.tobytes(), name
    part = tuple(slice(n // 3, n // 2 + 1) for n in want.shape)
    np.testing.assert_array_equal(encoder[name].read(part), want[part])


@pytest.mark.parametrize("form", t5_trees.FORMS)
def test_zarr_folders_made_with_tensorstore_alone(tmp_path, form):
  t5_trees.write_zarr(tmp_path, PARAMS, form)
  check(t5x_format.open_t5x(tmp_path))


def test_placeholders_without_a_name_and_newer_roots(tmp_path):
  t5_trees.write_zarr(tmp_path, PARAMS, "alone")
  content = {"target": t5_trees.nested(dict.fromkeys(PARAMS, "PLACEHOLDER")), "step": 7}
  (tmp_path / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(content))
  check(t5x_format.open_t5x(tmp_path))


def test_a_folder_that_is_not_on_this_machine(tmp_path):
  t5_trees.write_zarr(tmp_path / "checkpoint_9", PARAMS, "older")
  quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=tmp_path))
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    found = t5x_format.open_t5x(f"http://127.0.0.1:{server.server_port}/checkpoint_9")
    check(found)
    (tmp_path / "checkpoint_9" / "target.encoder.encoder_norm.scale" / "0").unlink()
    with pytest.raises(ValueError, match="parameter encoder/encoder_norm/scale cannot be read: .*missing"):
      np.asarray(found["encoder/encoder_norm/scale"])
  finally:
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("chunk", [2**30, 256])  # flax splits arrays above that many bytes
def test_one_msgpack_file(tmp_path, monkeypatch, chunk):
  monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", chunk)
  params = t5_trees.nested(PARAMS | {"decoder/decoder_norm/scale": np.ones(3, np.float32)})
  content = {"version": 3, "optimizer": {"target": params, "state": {"step": 1}}}
  (tmp_path / "t5.msgpack").write_bytes(flax.serialization.msgpack_serialize(content))
  found = t5x_format.open_t5x(tmp_path / "t5.msgpack")
  check(found)
  assert "decoder/decoder_norm/scale" in found


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_what_we_write_comes_back(tmp_path, dtype):
  params = t5_trees.flat(dtype)
  t5x_format.write_t5x(tmp_path / "checkpoint_0", t5_trees.nested(params), dtype=dtype)
  check(t5x_format.open_t5x(tmp_path / "checkpoint_0"), params)
  with pytest.raises(ValueError, match="is not empty: expected a new folder"):
    t5x_format.write_t5x(tmp_path / "checkpoint_0", t5_trees.nested(params))
  assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_0"]


def test_what_we_write_is_what_t5x_reads(tmp_path):
  """As t5x.checkpoints does it: msgpack_restore, then a ts.Spec of every dictionary with the checkpoint's path put before its own."""
  t5x_format.write_t5x(tmp_path / "checkpoint_0", t5_trees.nested(PARAMS))
  content = flax.serialization.msgpack_restore((tmp_path / "checkpoint_0" / "checkpoint").read_bytes())
  assert content["version"] == 3 and content["optimizer"].keys() == {"target", "state"} and content["optimizer"]["state"]["step"] == 0
  for name, want in PARAMS.items():
    found = content["optimizer"]["target"]
    for key in name.split("/"):
      found = found[key]
    if want.ndim > 1:
      assert found.keys() >= {"driver", "kvstore", "metadata"} and found["kvstore"]["path"] == "target." + name.replace("/", ".")
      found["kvstore"]["path"] = str(tmp_path / "checkpoint_0" / found["kvstore"]["path"])
      found = ts.open(ts.Spec(found), open=True).result().read().result()
    np.testing.assert_array_equal(found, want)


def test_damaged_checkpoints_are_named(tmp_path):
  name, key = "target.encoder.layers_1.mlp.wo.kernel", "encoder/layers_1/mlp/wo/kernel"
  t5_trees.write_zarr(tmp_path, PARAMS, "kvstore")
  (tmp_path / name / "0.0").write_bytes(b"nonsense")
  with pytest.raises(ValueError, match=f"parameter {key} cannot be read"):
    np.asarray(t5x_format.open_t5x(tmp_path)[key])
  (tmp_path / name / ".zarray").unlink()
  with pytest.raises(ValueError, match=f"parameter {key} cannot be read from {name}") as error:
    t5x_format.open_t5x(tmp_path)
  assert "\n" not in str(error.value)
  whole = (tmp_path / "checkpoint").read_bytes()
  (tmp_path / "checkpoint").write_bytes(whole[:-40])
  with pytest.raises(ValueError, match="checkpoint is truncated"):
    t5x_format.open_t5x(tmp_path)


def zarr_array(folder, array, fill):
  """A T5X folder of one array `encoder/a`, in chunks of one row, those left out that hold the fill value alone."""
  kind = array.dtype.newbyteorder("<").str
  metadata = {"shape": list(array.shape), "chunks": [1, *array.shape[1:]][: array.ndim], "dtype": kind, "fill_value": fill}
  store = {"driver": "file", "path": f"{folder / 'target.encoder.a'}/"}
  ts.open({"driver": "zarr", "metadata": metadata, "kvstore": store}, create=True).result().write(array).result()
  return folder / "target.encoder.a"


@pytest.mark.parametrize(
  ("shape", "fill", "gone", "said"),
  [
    ((5, 3), None, 0, ""),
    ((5, 3), None, 2, "2 of 5 chunks are missing: expected all of them"),
    ((), None, 0, ""),
    ((), None, 1, "1 of 1 chunks are missing: expected all of them"),
    ((5, 3), 0, 0, "1 of 5 chunks are missing: they are read as 0.0, the array's fill value"),
    ((5, 3), 0, 4, "5 of 5 chunks are missing: expected all of them"),
  ],
)
def test_missing_chunks(tmp_path, shape, fill, gone, said):
  """T5X's arrays have no fill value, and all of their chunks are stored; of other arrays those that hold it alone are not."""
  want = np.ones(shape, np.float32)
  if shape:
    want[0] = 0  # a chunk of zeros
  folder = zarr_array(tmp_path, want, fill)
  for path in sorted(folder.glob("[0-9]*"))[:gone]:
    path.unlink()
  leaf = t5x_format.open_t5x(tmp_path)["encoder/a"]  # nothing is said of what nobody reads, as of a decoder
  if "expected" in said:
    with pytest.raises(ValueError, match=f"{tmp_path}: parameter encoder/a: {said}") as error:
      np.asarray(leaf)
    assert "\n" not in str(error.value)
    return
  with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    for _ in range(2):
      np.testing.assert_array_equal(np.asarray(leaf), want)
  assert [str(warning.message) for warning in found] == [f"{tmp_path}: parameter encoder/a: {said}"] * bool(said)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "is no T5X checkpoint: expected a msgpack dictionary"),
    (b"model_checkpoint_path: 'model.ckpt-1000000'", "is no T5X checkpoint: expected a msgpack dictionary"),
    (flax.serialization.msgpack_serialize({"state": {"a": 1}}), "its keys are state; expected optimizer/target"),
    (flax.serialization.msgpack_serialize({"target": {"encoder": {"a": "PLACEHOLDER://b"}}}), "expected the folder of the checkpoint"),
    (
      flax.serialization.msgpack_serialize({"target": {"encoder": {"a": np.zeros(9999, np.float32)}}})[:-1000],
      "is truncated: it ends inside the dictionary",
    ),
  ],
)
def test_other_files(tmp_path, content, message):
  (tmp_path / "file").write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    t5x_format.open_t5x(tmp_path / "file")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("where", ["../other/x", "PLACEHOLDER://../other/x", "a/../../other/x", ".hidden"])
def test_placeholders_lead_nowhere_else(tmp_path, where):
  """An array beside the checkpoint's folder is there to be found."""
  t5_trees.write_zarr(tmp_path / "other", PARAMS, "kvstore")
  folder = tmp_path / "checkpoint_0"
  folder.mkdir()
  value = where if where.startswith("PLACEHOLDER") else {"driver": "zarr", "kvstore": {"driver": "file", "path": where}}
  content = {"optimizer": {"target": {"encoder": {"encoder_norm": {"scale": value}}}}}
  (folder / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(content))
  with pytest.raises(ValueError, match="array of parameter encoder/encoder_norm/scale.*: expected a name without slashes"):
    t5x_format.open_t5x(folder)


def nested_maps(depth):
  return b"\x81\xa1a" * depth + b"\x01"


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (nested_maps(5000), "dictionaries more than 64 deep"),
    (b"\x81\xa1a\xdd\x7f\xff\xff\xff", "exceeds max_array_len"),  # a list that says it has 2^31 - 1 items
    (b"\x81\xa1a" + b"\x91" * 5000 + b"\x01", "is no readable msgpack file"),
    (b"\xdf\x7f\xff\xff\xff\xa1a\x01", "is truncated"),
  ],
)
def test_depth_and_length_of_msgpack(tmp_path, content, message):
  (tmp_path / "file").write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    t5x_format.open_t5x(tmp_path / "file")
  assert "\n" not in str(error.value) and str(tmp_path / "file") in str(error.value)


def test_an_array_of_another_size_than_its_shape(tmp_path):
  whole = flax.serialization.msgpack_serialize({"target": {"encoder": {"a": np.zeros((100, 99), np.float32)}}})
  assert whole.count(b"\x92\x64\x63") == 1  # the shape
  (tmp_path / "file").write_bytes(whole.replace(b"\x92\x64\x63", b"\x92\x64\x64"))
  with pytest.raises(ValueError, match=r"an array of shape \(100, 100\) and type float32 in 39600 bytes"):
    t5x_format.open_t5x(tmp_path / "file")
