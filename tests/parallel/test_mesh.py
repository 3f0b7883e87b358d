"""Meshes from specs."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ivid.parallel.mesh import AXES, make_mesh, mesh_shape, place_devices
from ivid.parallel.sharding import batch_sharding
from ivid.spec.errors import UserError
from ivid.spec.run import MeshSpec, RunMeshSpec


@pytest.mark.parametrize(
  ("spec", "devices", "shape"),
  [
    (MeshSpec(), 8, (8, 1, 1, 1, 1)),
    (MeshSpec(data=2, fsdp=-1), 8, (2, 4, 1, 1, 1)),
    (MeshSpec(2, 2, 2), 8, (2, 2, 2, 1, 1)),
    (MeshSpec(data=1, frames=-1, height=2), 8, (1, 1, 1, 4, 2)),
    (MeshSpec(), 1, (1, 1, 1, 1, 1)),
  ],
)
def test_sizes(spec, devices, shape):
  assert mesh_shape(spec, devices) == shape


@pytest.mark.parametrize("spec", [MeshSpec(data=3), MeshSpec(data=2, fsdp=2), MeshSpec(data=-1, fsdp=3), MeshSpec(16)])
def test_a_mesh_that_does_not_divide_the_devices(spec):
  with pytest.raises(ValueError, match=r"does not divide 8 device\(s\): .* the nearest divisor is"):
    mesh_shape(spec, 8)


def test_only_one_axis_may_be_open():
  with pytest.raises(ValueError, match="at most one of them -1"):
    mesh_shape(MeshSpec(-1, -1), 8)


def test_mesh_covers_all_devices():
  assert make_mesh(MeshSpec(data=-1, fsdp=2)).devices.size == len(jax.devices())


@pytest.mark.parametrize("spec", [MeshSpec(), MeshSpec(data=2, fsdp=-1), MeshSpec(2, 2, 2), MeshSpec(data=1, frames=-1, height=2)])
def test_devices_without_a_torus_stay_in_their_order(spec):
  assert make_mesh(spec).devices.flatten().tolist() == jax.devices()
  assert make_mesh(spec).axis_names == AXES == ("data", "fsdp", "tensor", "frames", "height")


class Chip:
  """A device that says which slice it is of."""

  platform = device_kind = "chip"

  def __init__(self, id, slice_index):
    self.id, self.slice_index = id, slice_index


def test_slices_follow_each_other_along_data():
  chips = [Chip(n, n % 2) for n in range(8)]  # as they come, mixed
  placed = place_devices(RunMeshSpec(data=-1, fsdp=2), chips)
  assert placed.shape == (4, 2, 1, 1, 1)
  assert [[chip.slice_index for chip in row.flat] for row in placed] == [[0, 0], [0, 0], [1, 1], [1, 1]]
  assert (placed == place_devices(RunMeshSpec(data=-1, fsdp=2, slices=2), chips)).all()
  crossed = place_devices(RunMeshSpec(data=1, fsdp=8), chips)  # nothing else fits: it is not refused
  assert crossed.flatten().tolist() == chips
  for spec, message in (
    (RunMeshSpec(data=-1, slices=4), "mesh.slices=4: the 8 devices are of 2 slices: expected 2, or 0"),
    (RunMeshSpec(data=1, fsdp=-1, slices=2), "mesh.slices=2 does not divide data=1, .*: the nearest that does is 1"),
  ):
    with pytest.raises(UserError, match=message):
      place_devices(spec, chips)


def groups_of(text):
  """Groups of devices in the collectives of a program, by kind; XLA names them by the axes of a mesh of its own."""
  pattern = r" (all-gather|all-reduce)\(.*?replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[(.*?)\](?:T\((.*?)\))?\))? \{(.*?)\}"
  found = {}
  for kind, axes, shape, order, along in re.findall(pattern, text):
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    ids = np.arange(np.prod(list(sizes.values())))
    if shape:
      ids = ids.reshape([int(n) for n in shape.split(",")])
      ids = ids.transpose([int(n) for n in order.split(",")]) if order else ids
    places = [list(sizes).index(name) for name in re.findall(r"'(\w+)'", along)]
    ids = np.moveaxis(ids.reshape(list(sizes.values())), places, range(-len(places), 0))
    found.setdefault(kind, []).extend(map(set, ids.reshape(-1, np.prod(ids.shape[-len(places) :])).tolist()))
  return found


def test_parameters_are_gathered_within_a_slice_and_gradients_summed_over_them():
  """On virtual devices, of which equal parts stand for slices."""
  mesh = make_mesh(RunMeshSpec(data=2, fsdp=4, slices=2))
  assert mesh.devices[0].flatten().tolist() == jax.devices()[:4]
  w = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
  x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=batch_sharding(mesh))
  gradient = jax.jit(jax.grad(lambda w, x: jnp.mean(jnp.square(x @ w))), out_shardings=w.sharding)
  found = groups_of(gradient.lower(w, x).compile().as_text())
  slices = [set(range(4)), set(range(4, 8))]
  assert found["all-gather"] == slices
  across = [group for group in found["all-reduce"] if not any(group <= one for one in slices)]
  assert sorted(map(sorted, across)) == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_two_slices_compile_for_tpus():
  """With libtpu's own compiler: what crosses the network between slices is the sum of the gradients' shards."""
  pytest.importorskip("libtpu")
  ended = subprocess.run([sys.executable, "-c", TWO_SLICES], capture_output=True, text=True, timeout=600)
  assert ended.returncode == 0, ended.stderr[-2000:]
  shape, slices, within, across = json.loads(ended.stdout.splitlines()[-1])
  assert shape == [4, 4, 1, 1, 1] and slices == [0] * 8 + [1] * 8
  assert within and all(max(group) < 8 for group in within)  # numbered within a slice
  assert across == ["ALL_REDUCE"]


TWO_SLICES = r"""
import json, re
from ivid.measure.topology import parse_slice, set_environment, slice_devices
found = parse_slice("v5p:2x2x2")
set_environment(found)
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from ivid.parallel.mesh import make_mesh
from ivid.parallel.sharding import batch_sharding
from ivid.spec.run import RunMeshSpec
mesh = make_mesh(RunMeshSpec(data=-1, fsdp=4, slices=2), slice_devices(found, 2))
w = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
x = jax.ShapeDtypeStruct((64, 512), jnp.float32, sharding=batch_sharding(mesh))
gradient = jax.jit(jax.grad(lambda w, x: jnp.mean(jnp.square(x @ w))), out_shardings=w.sharding)
text = gradient.lower(w, x).compile().as_text()
groups = re.findall(r"(?:all-gather|all-reduce|reduce-scatter)\(.*?replica_groups=\{\{(.*?)\}\}", text)
within = [[int(n) for n in group.split(",")] for found in groups for group in found.split("},{")]
across = sorted(set(re.findall(r'_xla_megascale_transfer_type="(\w+)"', text)))
print(json.dumps([mesh.devices.shape, [device.slice_index for device in mesh.devices.flat], within, across]))
"""
