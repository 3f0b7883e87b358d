"""Logical axes to shardings: parameters and every optimizer's state."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from jax.sharding import PartitionSpec

from ivid.config import load_run
from ivid.flops import count_bytes
from ivid.nets.layers import pin
from ivid.parallel import sharding
from ivid.parallel.mesh import make_mesh
from ivid.spec.run import MeshSpec, OptimizerKind
from ivid.stage import Stage
from ivid.train.run import make_training

RUN = load_run("tiny:base")
FSDP = MeshSpec(data=1, fsdp=8)


@pytest.fixture(scope="module", params=list(OptimizerKind))
def kind(request):
  return request.param


@pytest.fixture(scope="module")
def training(kind):
  train = dataclasses.replace(RUN.train, optimizer=dataclasses.replace(RUN.train.optimizer, kind=kind))
  return make_training(RUN.cascade.stage("base"), train, make_mesh(FSDP), max_tokens=8)


def test_input_channels_are_sharded_over_fsdp(training):
  kernel = training.state.params["down1"]["conv1"]["kernel"]
  assert kernel.sharding.spec == PartitionSpec(None, None, None, "fsdp", "tensor")
  assert kernel.sharding.shard_shape(kernel.shape)[3] == kernel.shape[3] // 8


def test_every_moment_lies_like_its_parameter(training, kind):
  """Adam has two moments of each parameter, Muon one of each matrix; Adafactor's are whole, for matrices so small are not factored."""

  def places(leaves):
    return [(leaf.shape, leaf.sharding.spec) for leaf in leaves if leaf.size > 1]  # a count, or Adafactor's stand-in for a factor

  params = jax.tree.leaves(training.state.params)
  boxes = jax.tree.leaves(Stage(RUN.cascade.stage("base")).abstract_params(), is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata))
  stacked = ["layers" in getattr(box, "names", ()) for box in boxes]
  vectors = [leaf for leaf, layers in zip(params, stacked, strict=True) if leaf.ndim - layers < 2]
  moments = {OptimizerKind.ADAM: [*params, *params], OptimizerKind.ADAFACTOR: params, OptimizerKind.MUON: [*params, *vectors]}[kind]
  have = Counter(places(jax.tree.leaves(training.state.opt_state)))
  if kind is OptimizerKind.MUON:
    have[(3,), PartitionSpec()] -= 1  # coefficients of its orthogonalisation
  assert +have == Counter(places(moments))
  assert sum(number for (_, spec), number in have.items() if "fsdp" in spec) > len(params) // 3


def test_state_is_made_in_its_shards(training):
  state = training.init.jit()(jax.random.key(0))
  wanted = jax.tree.leaves(training.state)
  for leaf, want in zip(jax.tree.leaves(state), wanted, strict=True):
    assert leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim)
  on_one = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
  assert on_one == count_bytes(training.state)
  assert on_one < 0.5 * sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))


def test_activations_are_held_to_the_mesh_where_its_axes_divide():
  """A clip's rows of the batch and frames are cut; the height of 6 is no multiple of 4, and stays whole."""
  mesh = make_mesh(MeshSpec(data=2, fsdp=1, tensor=1, frames=1, height=4))
  seen = []

  def step(h):
    h = pin(h * 2)
    jax.debug.inspect_array_sharding(h, callback=seen.append)
    return h

  with jax.set_mesh(mesh):
    for height in (8, 6):
      jax.jit(sharding.pinned(step))(jnp.ones((4, 3, height, 5, 2))).block_until_ready()
  shapes = [found.shard_shape((4, 3, height, 5, 2)) for found, height in zip(seen, (8, 6), strict=True)]
  assert shapes == [(2, 3, 2, 5, 2), (2, 3, 6, 5, 2)]


def test_without_rules_or_mesh_nothing_is_held():
  h = jnp.ones((1, 2, 3, 4, 5))
  assert pin(h) is h
  assert sharding.pinned(pin)(h) is h
