"""What a safetensors file says of itself is checked before an array is read."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy

from ivid.spec.errors import UserError
from ivid.weights.header import read_header
from ivid.weights.tensors import read_weights

GOOD = {
  "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
  "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
  "none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [24, 24]},
}


def write(path, header, *, data=bytes(32), length=None):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
  return path


def test_a_good_one(tmp_path):
  path = write(tmp_path / "a.safetensors", {"__metadata__": {"step": "3"}, **GOOD})
  header, notes, start = read_header(path)
  assert header == GOOD and notes == {"step": "3"} and start == path.stat().st_size - 32
  assert safetensors.numpy.load_file(path).keys() == read_weights(path).keys() == GOOD.keys()
  assert read_weights(path)["none"].shape == (0, 3)


def changed(name, **values):
  return {**GOOD, name: {**GOOD[name], **values}}


@pytest.mark.parametrize(
  "header, message",
  [
    (changed("b", data_offsets=[20, 28]), "parameter 'b' begins at byte 20 of the data, expected 24"),
    (changed("b", data_offsets=[28, 36]), "parameter 'b' begins at byte 28 of the data, expected 24"),
    (changed("b", data_offsets=[32, 24]), "parameter 'b' has data_offsets [32, 24]"),
    (changed("b", data_offsets=[-8, 0]), "parameter 'b' has data_offsets [-8, 0]"),
    (changed("b", data_offsets=[24, 10**30]), "parameter 'b' has 999999999999999999999999999976 bytes, expected the 8"),
    (changed("b", data_offsets=None), "parameter 'b' has data_offsets None"),
    (changed("a", shape=[2, 2]), "parameter 'a' has 24 bytes, expected the 16 of its shape [2, 2]"),
    (changed("a", shape=[-2, -3]), "parameter 'a' has shape [-2, -3]: expected at most 16 whole numbers"),
    (changed("a", shape=[True, 6]), "parameter 'a' has shape [True, 6]"),
    (changed("a", shape=[1] * 40), "parameter 'a' has shape [1, 1"),
    (changed("a", shape="23"), "parameter 'a' has shape '23'"),
    (changed("a", dtype=3), "parameter 'a' is described by"),
    (changed("a", more=3), "parameter 'a' is described by"),
    ({**GOOD, "c": None}, "parameter 'c' is described by None"),
    ({**GOOD, "b/c": {"dtype": "F32", "shape": [0], "data_offsets": [32, 32]}}, "parameter 'b/c' lies within another one"),
    ({**GOOD, "__metadata__": {"step": 3}}, "expected a dictionary of arrays, with texts as metadata"),
    ([1], "expected a dictionary of arrays"),
    (b'{"a": ' + b"[" * 100_000, "lists or objects more than 64 deep"),
    (b"\xff" * 20, "is no JSON"),
  ],
)
def test_bad_ones(tmp_path, header, message):
  path = write(tmp_path / "a.safetensors", header)
  for read in (read_header, read_weights):
    with pytest.raises(UserError, match=re.escape(message)) as error:
      read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**31, 2**63, 2**64 - 1])
def test_lengths_of_the_header(tmp_path, length):
  with pytest.raises(UserError, match="is no readable safetensors file|is no JSON"):
    read_header(write(tmp_path / "a.safetensors", GOOD, length=length))


def test_what_is_too_short_or_too_long(tmp_path):
  for size, word in ((31, "truncated"), (33, "too long")):
    with pytest.raises(UserError, match=f"is {word}: "):
      read_header(write(tmp_path / "a.safetensors", GOOD, data=bytes(size)))
  for size in range(9):
    (tmp_path / "b.safetensors").write_bytes(bytes(size))
    with pytest.raises(UserError, match=rf"is no readable safetensors file \({size} bytes\)"):
      read_weights(tmp_path / "b.safetensors")


def test_a_type_that_parameters_do_not_have(tmp_path):
  np.testing.assert_array_equal(read_weights(write(tmp_path / "a.safetensors", GOOD))["a"], np.zeros((2, 3)))
  path = write(tmp_path / "b.safetensors", {"a": {"dtype": "F8_E4M3", "shape": [32], "data_offsets": [0, 32]}})
  with pytest.raises(UserError, match="parameter a has type F8_E4M3, expected one of F64"):
    read_weights(path)
