"""Meshes from specs."""

import jax
import pytest

from ivid.parallel.mesh import make_mesh, mesh_shape
from ivid.spec.run import MeshSpec


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
