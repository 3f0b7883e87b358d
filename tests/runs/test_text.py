"""The text encoder over a mesh."""

import math

import jax
import pytest

from ivid.parallel.mesh import make_mesh
from ivid.runs.text import encoder_placement
from ivid.spec.run import MeshSpec
from ivid.spec.t5 import t5_spec
from ivid.text import t5


@pytest.mark.parametrize("name", ["t5_v1_1_xxl", "byt5_xxl"])
@pytest.mark.parametrize("mesh", [MeshSpec(data=1, fsdp=8), MeshSpec(data=1, fsdp=2, tensor=4)])
def test_xxl_is_cut_into_equal_parts(name, mesh):
  """No device holds more than its eighth, small vectors apart."""
  spec = t5_spec(name)
  placement = encoder_placement(make_mesh(mesh, jax.devices()[:8]))(spec)
  params = jax.tree.leaves(t5.abstract_params(spec), is_leaf=lambda leaf: hasattr(leaf, "names"))
  whole = sum(math.prod(leaf.value.shape) for leaf in params)
  parts = [sharding.shard_shape(leaf.value.shape) for leaf, sharding in zip(params, jax.tree.leaves(placement.params), strict=True)]
  assert sum(map(math.prod, parts)) < 1.001 * whole / 8
