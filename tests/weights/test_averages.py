"""Power-function averages: their widths, and averages of other widths from those that were kept."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivid.config import load_run
from ivid.spec.errors import UserError
from ivid.spec.run import CheckpointSpec, TrainSpec
from ivid.steps import init_state, train_step
from ivid.train.checkpoint import Checkpointer, Seen
from ivid.weights.averages import combination, exponent, load_average
from ivid.weights.ema import snapshot_steps

KEPT, ASKED = (0.05, 0.1), (0.07, 0.12)
STEPS, EVERY = 400, 40
STAGE = load_run("tiny:base").cascade.stage("base")


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.2, 0.28])
def test_the_width_of_a_profile_is_what_it_says(width):
  gamma, tau = exponent(width), (np.arange(200_000) + 0.5) / 200_000
  weight = tau**gamma / np.sum(tau**gamma)
  mean = np.sum(weight * tau)
  assert np.sqrt(np.sum(weight * (tau - mean) ** 2)) == pytest.approx(width, rel=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A work folder with snapshots of a run whose weights wander, and the averages of other widths that it carried along."""
  widths = (*KEPT, *ASKED)
  options = dict(optimizer=optax.sgd(1.0), ema_decay=0.9, accumulation=1, exponents=tuple(exponent(w) for w in widths))
  path = np.cumsum(np.random.default_rng(0).standard_normal((STEPS, 5)), axis=0)

  @jax.jit
  def update(state, moved):
    return train_step(state, -moved[None], jax.random.key(0), loss_fn=lambda p, b, key: (jnp.sum(p["a"] * b, axis=-1), b), **options)[0]

  workdir = tmp_path_factory.mktemp("run")
  checkpointer = Checkpointer(workdir, CheckpointSpec(), STAGE, widths=KEPT)
  state = init_state({"a": jnp.zeros(5)}, options["optimizer"], averages=len(widths))
  for step, moved in enumerate(np.diff(path, axis=0, prepend=0.0).astype(np.float32), start=1):
    state = update(state, moved)
    if step % EVERY == 0:
      checkpointer.snapshot(state.replace(averages=state.averages[: len(KEPT)]))
  np.testing.assert_allclose(state.params["a"], path[-1], rtol=1e-3, atol=1e-3)
  checkpointer.save(state.replace(averages=state.averages[: len(KEPT)]), Seen(STEPS))
  checkpointer.close()
  return workdir, dict(zip(widths, state.averages, strict=True)), path


def test_an_average_weighs_updates_by_their_power(trained):
  _, averages, path = trained
  for width, tree in averages.items():
    edges = (np.arange(STEPS + 1) / STEPS) ** (exponent(width) + 1)
    np.testing.assert_allclose(tree["a"], np.diff(edges) @ path, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("width", (*KEPT, *ASKED))
def test_snapshots_give_the_average_that_a_run_would_have_kept(trained, width):
  workdir, averages, path = trained
  spec, params, step = load_average(workdir, width)
  assert (spec.name, step, params["a"].dtype) == ("base", STEPS, np.float32)
  wander = np.abs(path[-1] - averages[width]["a"]).max()
  np.testing.assert_allclose(params["a"], averages[width]["a"], atol=(0.01 if width in KEPT else 0.03) * wander)


def test_an_average_up_to_one_checkpoint(trained, tmp_path):
  workdir = trained[0]
  one = workdir / "checkpoints" / str(STEPS)
  np.testing.assert_array_equal(load_average(one, 0.05)[1]["a"], load_average(workdir, 0.05)[1]["a"])
  earlier = tmp_path / "checkpoints" / str(STEPS // 2)  # its own snapshots count, and those before
  shutil.copytree(one, earlier)
  shutil.copytree(workdir / "snapshots", tmp_path / "snapshots")
  assert load_average(earlier, 0.05)[2] == STEPS // 2 and load_average(tmp_path, 0.05)[2] == STEPS


def test_a_kept_width_is_taken_as_it_is():
  weights, missed = combination([(10, exponent(0.05)), (10, exponent(0.1))], step=10, width=0.1)
  np.testing.assert_allclose(weights, [0.0, 1.0], atol=1e-6)
  assert missed < 1e-3


@pytest.mark.parametrize(
  ("width", "message"), [(0.5, "--ema=0.5: expected above 0 and below 0.289"), (0.01, "--ema=0.01: 10 snapshots of widths 0.05, 0.1 come")]
)
def test_a_width_that_cannot_be_made_is_refused(trained, width, message):
  with pytest.raises(UserError, match=message):
    load_average(trained[0], width)


def test_a_run_without_snapshots_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"--ema=0.08: .* has no snapshots: expected a run with train.ema_widths"):
    load_average(tmp_path, 0.08)


def test_a_checkpoint_of_other_widths_is_refused(trained):
  with pytest.raises(UserError, match=r"train.ema_widths=\(\): checkpoint .* was trained with \(0.05, 0.1\): expected the same"):
    Checkpointer(trained[0], CheckpointSpec(), STAGE).restore(None)


def test_averages_are_restored_and_snapshots_of_what_came_after_are_gone(tmp_path):
  state = init_state({"a": jnp.zeros(5)}, optax.sgd(1.0), averages=2)
  other = state.replace(averages=({"a": jnp.ones(5)}, {"a": jnp.full(5, 2.0)}), step=jnp.asarray(4, jnp.int32))
  checkpointer = Checkpointer(tmp_path, CheckpointSpec(), STAGE, widths=KEPT)
  checkpointer.save(other, Seen(4))
  for step in (4, 6):
    checkpointer.snapshot(other.replace(step=jnp.asarray(step, jnp.int32)))
  checkpointer.close()
  checkpointer = Checkpointer(tmp_path, CheckpointSpec(), STAGE, widths=KEPT)
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  restored, _ = checkpointer.restore(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), state))
  assert snapshot_steps(tmp_path) == [4, 6]  # as nothing else has been checked
  checkpointer.begin(4)
  checkpointer.close()
  assert [float(tree["a"][0]) for tree in restored.averages] == [1.0, 2.0]
  assert snapshot_steps(tmp_path) == [4]


def test_widths_out_of_range_are_refused():
  with pytest.raises(UserError, match="train.ema_widths=0.3: expected above 0 and below 0.289"):
    dataclasses.replace(TrainSpec(), ema_widths=(0.05, 0.3))
