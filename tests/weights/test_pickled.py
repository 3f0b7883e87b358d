"""Pickles of arrays: what numpy wrote is read, and whatever else a file asks for is named and not run."""

import os
import pathlib
import pickle

import numpy as np
import pytest

from ivid.spec.errors import UserError
from ivid.weights import pickled
from ivid.weights.pickled import read_pickle


def write(path, value, protocol=4):
  path.write_bytes(pickle.dumps(value, protocol=protocol))
  return path


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_and_dictionaries(tmp_path, protocol):
  turned = np.arange(12, dtype=np.int64).reshape(3, 4).T
  value = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"turned": turned, "swapped": turned.astype(">f8")}}}
  value["again"] = value["params"]["a"]
  if protocol < 3:  # its bytes are texts that a codec turns back: another name than numpy's
    with pytest.raises(UserError, match="it wants to run _codecs.encode"):
      read_pickle(write(tmp_path / "w", value, protocol))
    return
  if protocol == 5:
    with pytest.raises(UserError, match="it wants to run numpy"):  # of buffers
      read_pickle(write(tmp_path / "w", value, protocol))
    return
  found = read_pickle(write(tmp_path / "w", value, protocol))
  np.testing.assert_array_equal(found["params"]["a"], value["params"]["a"])
  np.testing.assert_array_equal(found["params"]["b"]["turned"], turned)
  np.testing.assert_array_equal(found["params"]["b"]["swapped"], turned)
  np.testing.assert_array_equal(found["again"], value["params"]["a"])


class Runs:
  def __init__(self, function, *args):
    self._made_by = function, args

  def __reduce__(self):
    return self._made_by


@pytest.mark.parametrize(
  ("function", "args"),
  [
    (os.system, ("touch {}",)),
    (eval, ("open('{}', 'w')",)),
    (pathlib.Path.touch, (pathlib.PosixPath("{}"),)),
    (exec, ("open('{}', 'w')",)),
  ],
)
def test_what_wants_to_run_something_is_refused(tmp_path, function, args):
  mark = tmp_path / "ran"
  args = tuple(type(arg)(str(arg).format(mark)) for arg in args)
  path = write(tmp_path / "w", {"params": Runs(function, *args)})
  with pytest.raises(UserError, match="it wants to run (.*): expected dictionaries and numpy arrays alone, so it was not read") as caught:
    read_pickle(path)
  assert "\n" not in str(caught.value) and not mark.exists()
  pickle.loads(path.read_bytes())
  assert mark.exists()  # as it would have run


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ([np.ones(3)], "it holds 'list' where dictionaries"),
    ({"a": 3}, "it holds 'int' where dictionaries"),
    ({3: np.ones(2)}, "it has a dictionary with the key 3: expected texts"),
    ({"a": np.array(["x"], object)}, "an array of type 'O8': expected one of f2, f4"),
    ({"a": np.array(["abc"])}, "an array of type 'U3'"),
    ({"a": np.float32(3)}, "it wants to run numpy.*scalar"),
    ({"a": {1, 2}}, "it holds 'set'"),
  ],
)
def test_other_contents(tmp_path, value, message):
  with pytest.raises(UserError, match=message) as caught:
    read_pickle(write(tmp_path / "w", value))
  assert str(tmp_path / "w") in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_files(tmp_path, monkeypatch):
  whole = pickle.dumps({"a": np.arange(64, dtype=np.float32)}, protocol=4)
  for length in range(0, len(whole), 7):
    (tmp_path / "w").write_bytes(whole[:length])
    with pytest.raises(UserError):
      read_pickle(tmp_path / "w")
  shape = whole.replace(b"K@", b"K?")  # 63 in place of 64
  assert shape != whole
  (tmp_path / "w").write_bytes(shape)
  with pytest.raises(UserError, match=r"an array of shape \(63,\) has 256 bytes of float32"):
    read_pickle(tmp_path / "w")
  deep = {"a": np.ones(1)}
  for _ in range(20):
    deep = {"a": deep}
  with pytest.raises(UserError, match="at most 16 deep"):
    read_pickle(write(tmp_path / "w", deep))
  monkeypatch.setattr(pickled, "LARGEST", 100)
  with pytest.raises(UserError, match="expected at most 100 of pickled arrays"):
    read_pickle(tmp_path / "w")
  with pytest.raises(UserError, match="none"):
    read_pickle(tmp_path / "none")
