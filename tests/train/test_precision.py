"""Activations in bfloat16: how a stage is run. It trains as in float32, and a run or a bundle goes on in either."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivid.config import load_run
from ivid.data.example import index_words
from ivid.spec import batch as batches
from ivid.spec.clip import ClipShape
from ivid.stage import Stage, unbox
from ivid.steps import init_state, train_step


def nano(dtype):
  """nano's base without its middle level and with a quarter of the channels, on clips of 2 x 8 x 16."""
  run = load_run("nano:base", [f"cascade.stages.base.unet.dtype={dtype}"])
  spec = run.cascade.stage("base")
  levels = tuple(dataclasses.replace(level, channels=32, blocks=1) for level in spec.unet.levels[::2])
  unet = dataclasses.replace(spec.unet, levels=levels, embed_dim=32, head_dim=16, text_dim=16, text_width=32)
  return Stage(dataclasses.replace(spec, unet=unet, output=ClipShape(2, 8, 16, 0.375)))


def test_a_step_in_bfloat16_is_near_one_in_float32():
  stage, rng = nano("float32"), np.random.default_rng(0)
  # Initial values would give a constant output.
  params = jax.tree.map(lambda a: (0.15 * rng.standard_normal(a.shape)).astype(a.dtype), unbox(stage.abstract_params()))
  described = batches.batch_spec(stage.spec, batch_size=2, frames=2, height=8, width=16, max_tokens=8)
  batch = {name: np.ones(a.shape, jnp.dtype(a.dtype)) for name, a in described.items()}
  batch[batches.VIDEO] = rng.integers(0, 256, batch[batches.VIDEO].shape, np.uint8)
  batch[batches.TEXT] = rng.standard_normal(batch[batches.TEXT].shape).astype(jnp.bfloat16)
  batch[batches.INDEX] = index_words(range(2))
  optimizer = optax.sgd(0.01)
  found = {}
  for dtype in ("float32", "bfloat16"):
    given = dict(loss_fn=nano(dtype).loss, optimizer=optimizer, ema_decay=0.9, accumulation=1)
    found[dtype] = jax.jit(lambda state, given=given: train_step(state, batch, jax.random.key(0), **given))(init_state(params, optimizer))
  (exact, want), (state, have) = found["float32"], found["bfloat16"]
  assert float(want["loss"]) > 0.2 and float(have["loss"]) != float(want["loss"])
  assert float(have["loss"]) == pytest.approx(float(want["loss"]), rel=0.01)
  assert float(have["grad_norm"]) == pytest.approx(float(want["grad_norm"]), rel=0.05)
  for leaf, before, after in zip(*(jax.tree.leaves(tree) for tree in (state.params, params, exact.params)), strict=True):
    assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
    assert np.linalg.norm(leaf - after) <= 0.2 * np.linalg.norm(after - before) + 1e-5  # nearly the same update
