"""Sums of arrays: of any dtype, the same wherever the array lies, another one after any change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ivid.parallel.mesh import make_mesh
from ivid.spec.run import MeshSpec
from ivid.weights.sums import device_sums, first_changed, host_sums, named_leaves

KINDS = ("float32", "bfloat16", "int32", "uint8", "bool", "float16")


def tree():
  rng = np.random.default_rng(0)
  kinds = {kind: jnp.asarray(rng.standard_normal((16, 3, 8)) * 3, kind) for kind in KINDS}
  return {"kinds": kinds, "list": [np.float32(1.5), np.zeros((0, 4), np.float32), np.arange(3)]}


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_the_same_on_any_number_of_devices_and_in_numpy(devices):
  whole = tree()
  mesh = make_mesh(MeshSpec(data=1, fsdp=-1), jax.devices()[:devices])
  shard = lambda a: jax.device_put(a, NamedSharding(mesh, PartitionSpec(*["fsdp"] * (np.ndim(a) > 2))))  # noqa: E731
  spread = jax.tree.map(shard, whole)
  assert len(spread["kinds"]["float32"].sharding.device_set) == devices
  assert list(named_leaves(whole)) == [*(f"kinds/{kind}" for kind in sorted(KINDS)), "list/0", "list/1", "list/2"]
  assert device_sums(spread) == host_sums(jax.tree.map(np.asarray, spread))
  # What older checkpoints have stored must be found again by any later ivid.
  assert host_sums({"a": np.arange(5, dtype=np.float32).reshape(1, 5)}) == {"a": 694244423}


def test_large_arrays_in_blocks(monkeypatch):
  values = np.random.default_rng(1).standard_normal(1000, np.float32)
  want = host_sums({"a": values})
  monkeypatch.setattr("ivid.weights.sums.BLOCK", 64)
  assert host_sums({"a": values}) == want == device_sums({"a": jnp.asarray(values)})


def test_each_bit_each_place_and_each_name_counts():
  values = np.random.default_rng(2).standard_normal(64).astype(np.float32)
  want = host_sums({"a": values, "b": values})
  assert first_changed(want, want) is None
  seen = {want["a"]}
  for bit in range(32):
    changed = values.copy()
    changed.view(np.uint32)[17] ^= np.uint32(1 << bit)
    have = host_sums({"a": changed, "b": values})
    assert first_changed(have, want) == "a"
    seen.add(have["a"])
  assert len(seen) == 33
  assert host_sums({"a": values[::-1]})["a"] != want["a"] and host_sums({"a": np.roll(values, 1)})["a"] != want["a"]
  assert first_changed({**want, "c": 1}, want) == "c" and first_changed({"a": want["a"]}, want) == "b"
