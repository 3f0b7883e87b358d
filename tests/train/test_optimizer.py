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


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_the_gradient_is_clipped_to_its_norm_and_shorter_ones_are_left(kind):
  """All kinds keep a memory of sizes: how a long gradient moves what comes after a short one says with which length it went in."""
  short = {name: 0.03 * jax.random.normal(jax.random.key(i), box.value.shape) for i, (name, box) in enumerate(BOXED.items())}
  zeros = jax.tree.map(jnp.zeros_like, short)
  norm = float(optax.tree.norm(short))
  long, cut = (jax.tree.map(lambda a, k=k: k * a[..., ::-1] / norm, short) for k in (1000.0, 1.0))
  assert norm < 1 and abs(float(optax.tree.norm(cut)) - 1) < 1e-5

  def second_update(gradient, clip_norm):
    optimizer = optimizer_of(dataclasses.replace(SPEC, kind=kind, warmup_steps=0, clip_norm=clip_norm), 10)
    state = optimizer.init(zeros)
    for grads in (short, gradient):
      updates, state = optimizer.update(grads, state, zeros)
    return updates

  clipped, unclipped = second_update(long, 1.0), second_update(long, 1e9)
  for name, want in second_update(cut, 1e9).items():
    np.testing.assert_allclose(clipped[name], want, rtol=1e-4, atol=1e-6)
    assert np.abs(unclipped[name] - want).max() > 0.01 * np.abs(want).max()
