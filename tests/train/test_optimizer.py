"""Optimizers by spec: schedule, and Muon on stacked convolution kernels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ivid.spec.run import OptimizerKind, OptimizerSpec, TrainSpec
from ivid.train import phases
from ivid.train.optimizer import MUON_RMS, make_optimizer

SPEC = OptimizerSpec(learning_rate=0.1, warmup_steps=10, final_fraction=0.1)


def learning_rate(spec, steps):
  return phases.learning_rate(phases.resolve(TrainSpec(steps=steps, optimizer=spec)))


def optimizer_of(spec, steps):
  return make_optimizer(spec, rate=learning_rate(spec, steps), boxed=BOXED)


def test_warm_up_and_cosine():
  rate = learning_rate(SPEC, 110)
  np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(60), rate(110)], [0, 0.05, 0.1, 0.055, 0.01], rtol=1e-5, atol=1e-9)


def test_a_run_shorter_than_its_warm_up():
  assert np.isfinite(float(learning_rate(SPEC, 1)(0)))


def named(shape, names):
  return nn.LogicallyPartitioned(jnp.zeros(shape), names)


BOXED = {
  "kernel": named((2, 3, 3, 4, 8), ("layers", "conv_h", "conv_w", "embed_in", "embed_out")),
  "dense": named((6, 8), ("embed_in", "embed_out")),
  "bias": named((2, 8), ("layers", "channels")),
}


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_all_kinds_go_downhill(kind):
  params = jax.tree.map(lambda b: jnp.ones_like(b.value), BOXED, is_leaf=lambda b: isinstance(b, nn.LogicallyPartitioned))
  optimizer = optimizer_of(dataclasses.replace(SPEC, kind=kind, warmup_steps=0), 100)
  state = optimizer.init(params)
  updates, _ = optimizer.update(params, state, params)
  assert all(float(jnp.sum(update)) < 0 for update in jax.tree.leaves(updates))


def test_muon_orthogonalises_each_stacked_layer_by_itself():
  optimizer = optimizer_of(dataclasses.replace(SPEC, kind=OptimizerKind.MUON, warmup_steps=0, clip_norm=1e9), 100)
  grads = {name: jax.random.normal(jax.random.key(i), box.value.shape) for i, (name, box) in enumerate(BOXED.items())}
  scaled = dict(grads, kernel=grads["kernel"].at[0].multiply(100.0))
  zeros = jax.tree.map(jnp.zeros_like, grads)
  state = optimizer.init(zeros)
  kernel = optimizer.update(scaled, state, zeros)[0]["kernel"]
  # The size of one layer's gradient must not reach the other, and all singular values are near one scale.
  for layer in kernel:
    values = jnp.linalg.svd(layer.reshape(36, 8) / (0.1 * MUON_RMS * 6.0), compute_uv=False)  # 6 = sqrt(max(36, 8))
    assert 0.6 < float(values.min()) and float(values.max()) < 1.4
  # A stacked vector is no matrix: the first step of Adam with Nesterov momentum moves every entry by 1 + b1 / (1 + b1) times the rate.
  bias = optimizer.update(scaled, state, zeros)[0]["bias"]
  np.testing.assert_allclose(jnp.abs(bias), 0.1 * (1 + SPEC.b1 / (1 + SPEC.b1)), rtol=1e-3)


def test_clipping():
  optimizer = optimizer_of(dataclasses.replace(SPEC, warmup_steps=0, clip_norm=1e-3), 10)
  assert isinstance(optimizer, optax.GradientTransformation)
  params = {"a": jnp.zeros(4)}
  adam = optax.chain(optax.clip_by_global_norm(1e-3))
  clipped, _ = adam.update({"a": jnp.full(4, 10.0)}, adam.init(params))
  np.testing.assert_allclose(optax.tree.norm(clipped), 1e-3, rtol=1e-5)
