"""Optimizers by spec: schedule, and Muon on stacked convolution kernels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ivid.spec.errors import UserError
from ivid.spec.phase import PhaseSpec
from ivid.spec.run import Decay, OptimizerKind, OptimizerSpec, TrainSpec
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


@pytest.mark.parametrize(
  ("decay", "values"),
  [
    (Decay.CONSTANT, [0.1, 0.1, 0.1, 0.1]),
    (Decay.INVERSE_SQRT, [0.1, 0.1 / 2**0.5, 0.05, 0.1 / 11**0.5]),
    (Decay.WSD, [0.1, 0.1, 0.1, 0.01]),
  ],
)
def test_other_decays(decay, values):
  rate = learning_rate(dataclasses.replace(SPEC, decay=decay, decay_share=0.2), 110)
  assert float(rate(5)) == pytest.approx(0.05)
  np.testing.assert_allclose([rate(step) for step in (10, 20, 40, 110)], values, rtol=1e-5)
  if decay is Decay.WSD:
    np.testing.assert_allclose([rate(88), rate(99)], [0.1, 0.055], rtol=1e-5)


def test_a_phase_begins_where_the_decay_of_the_one_before_ended():
  spec = dataclasses.replace(SPEC, decay=Decay.INVERSE_SQRT)
  train = TrainSpec(optimizer=spec, phases=(PhaseSpec("one", steps=40), PhaseSpec("two", steps=40, learning_rate=0.2)))
  rate = phases.learning_rate(phases.resolve(train))
  np.testing.assert_allclose([rate(40), rate(50)], [0.05, 0.2], rtol=1e-5)


@pytest.mark.parametrize("decay", list(Decay))
def test_a_run_shorter_than_its_warm_up(decay):
  rate = learning_rate(dataclasses.replace(SPEC, decay=decay), 1)
  assert 0 < float(rate(0)) < 1.001 * SPEC.learning_rate and np.isfinite(float(rate(1)))


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_weight_decay_is_times_the_learning_rate(kind):
  """A weight of 1 without gradients, after three updates of rate 1e-4 and decay 0.01: optax's Adafactor would leave 0.97."""
  spec = OptimizerSpec(kind, learning_rate=1e-4, warmup_steps=0, decay=Decay.CONSTANT, weight_decay=0.01)
  params = jax.tree.map(lambda b: jnp.ones_like(b.value), BOXED, is_leaf=lambda b: isinstance(b, nn.LogicallyPartitioned))
  optimizer, zeros = optimizer_of(spec, 10), jax.tree.map(jnp.zeros_like, params)
  state = optimizer.init(params)
  for _ in range(3):
    updates, state = optimizer.update(zeros, state, params)
    params = optax.apply_updates(params, updates)
  for leaf in jax.tree.leaves(params):
    np.testing.assert_allclose(leaf, 0.999997, rtol=0, atol=2e-7)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"decay_share": 0.0}, "train.optimizer.decay_share=0: expected above 0, at most 1"),
    ({"final_fraction": 1.5}, "train.optimizer.final_fraction=1.5: expected 0 to 1"),
    ({"warmup_steps": -1}, "train.optimizer.warmup_steps=-1: expected 0 or more"),
  ],
)
def test_values_out_of_range_are_refused(change, message):
  with pytest.raises(UserError, match=message):
    dataclasses.replace(SPEC, **change)


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
