"""Stage: what meets in it, on the tiny cascade."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.bin.config import load_run
from ivid.flops import count_params
from ivid.spec import batch as batches
from ivid.spec.stage import GuidanceSpec, Prediction, SamplerKind
from ivid.stage import SampleState, Stage, StepInputs, unbox
from ivid.train.report import evaluation_flops
from tests.compiling import quick

TINY = load_run("tiny:base").cascade
NANO = load_run("nano:base").cascade
# Imagen Video, figure 6, in thousandths; and the project's budget of arithmetic for one evaluation.
NANO_SIZES = dict(base=5.6e6, tsr1=1.7e6, ssr1=1.4e6, ssr2=1.2e6, tsr2=0.78e6, tsr3=0.63e6, ssr3=0.34e6)
NANO_GFLOP = dict(base=5, tsr1=8, ssr1=12, ssr2=40, tsr2=60, tsr3=120, ssr3=700)
KEY = jax.random.key(3)


@pytest.mark.parametrize("name", NANO.stage_names)
def test_nano_sizes_and_budgets(name):
  stage = Stage(NANO.stage(name))
  assert abs(count_params(unbox(stage.abstract_params())) / NANO_SIZES[name] - 1) < 0.1
  assert evaluation_flops(stage) < NANO_GFLOP[name] * 1e9


def shaken(stage):
  """Parameters away from their zero-initialised outputs, drawn by numpy: jax would compile a draw for every shape."""
  rng = np.random.default_rng(3)
  return jax.tree.map(lambda a: (0.15 * rng.standard_normal(a.shape)).astype(a.dtype), unbox(stage.abstract_params()))


def make_batch(stage, *, rows=4, tokens=5):
  T, H, W, _ = stage.spec.output.array
  arrays = batches.batch_spec(stage.spec, batch_size=rows, frames=T, height=H, width=W, max_tokens=tokens)
  rng = np.random.default_rng(0)
  return {
    batches.VIDEO: jnp.asarray(rng.integers(0, 256, arrays[batches.VIDEO].shape), jnp.uint8),
    batches.TEXT: jnp.asarray(rng.normal(size=arrays[batches.TEXT].shape), jnp.bfloat16),
    batches.TEXT_MASK: jnp.asarray(rng.random(arrays[batches.TEXT_MASK].shape) < 0.8),
    batches.IS_VIDEO: jnp.ones(rows, bool),
    batches.FPS: jnp.full(rows, stage.spec.output.fps, jnp.float32),
    batches.INDEX: jnp.arange(10, 10 + rows, dtype=jnp.int32),
  }


@pytest.fixture(scope="module", params=["base", "ssr1"])
def case(request):
  stage = Stage(TINY.stage(request.param))
  return stage, shaken(stage), make_batch(stage)


def test_loss_of_an_example_does_not_depend_on_its_place_or_neighbours(case):
  stage, params, batch = case
  loss = quick(stage.loss)
  losses, u = loss(params, batch, KEY)
  turned, turned_u = loss(params, jax.tree.map(lambda a: a[::-1], batch), KEY)
  np.testing.assert_allclose(losses, turned[::-1], rtol=1e-4)
  np.testing.assert_array_equal(u, turned_u[::-1])
  assert np.isfinite(losses).all() and len(set(np.asarray(u).tolist())) == len(u)


def test_dropping_the_text_for_all_makes_the_loss_blind_to_it(case):
  stage, params, batch = case
  blind = Stage(dataclasses.replace(stage.spec, diffusion=dataclasses.replace(stage.spec.diffusion, text_drop=1.0)))
  other = dict(batch, text=batch["text"] + 1)
  blind_loss = quick(blind.loss)
  np.testing.assert_array_equal(blind_loss(params, batch, KEY)[0], blind_loss(params, other, KEY)[0])
  seen = Stage(dataclasses.replace(stage.spec, diffusion=dataclasses.replace(stage.spec.diffusion, text_drop=0.0)))
  seen_loss = quick(seen.loss)
  assert np.abs(np.asarray(seen_loss(params, batch, KEY)[0]) - np.asarray(seen_loss(params, other, KEY)[0])).max() > 1e-5


def conditioning(stage, batch):
  cond = stage._conditioning(batch)
  if stage.spec.lowres is None:
    return cond
  B = len(batch[batches.INDEX])
  T, H, W, _ = stage.spec.output.array
  small = jax.random.normal(KEY, (B, *stage.spec.lowres.input.array))
  level = jnp.full((B,), 1.6)
  grown = stage.augmented(small, frames=T, height=H, width=W, logsnr=level, noise=jnp.zeros_like(small))
  return cond.replace(lowres=grown, aug_logsnr=level)


def test_guidance_of_weight_zero_is_the_conditional_model(case):
  stage, params, batch = case
  z = jax.random.normal(KEY, (4, *stage.spec.output.array))
  logsnr, cond = jnp.zeros(4), conditioning(stage, batch)
  denoise, guided = quick(stage.denoise), quick(stage.guided)
  x_hat = denoise(params, z, logsnr, cond)
  np.testing.assert_allclose(guided(params, z, logsnr, cond, jnp.asarray(0.0)), x_hat, atol=1e-5)
  x_uncond = denoise(params, z, logsnr, cond.replace(text_mask=jnp.zeros_like(cond.text_mask)))
  np.testing.assert_allclose(guided(params, z, logsnr, cond, jnp.asarray(1.5)), 2.5 * x_hat - 1.5 * x_uncond, atol=1e-4)


@pytest.mark.parametrize("prediction", list(Prediction))
def test_denoise_converts_what_the_network_predicts(prediction):
  spec = TINY.stage("base")
  stage = Stage(dataclasses.replace(spec, diffusion=dataclasses.replace(spec.diffusion, prediction=prediction)))
  params, batch = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), unbox(stage.abstract_params())), make_batch(stage, rows=1)
  z = jax.random.normal(KEY, (1, *spec.output.array))
  logsnr = jnp.asarray([1.0])
  alpha, sigma = np.sqrt(1 / (1 + np.exp(-1.0))), np.sqrt(1 / (1 + np.exp(1.0)))
  want = {Prediction.X: 0.0, Prediction.EPS: 1 / alpha, Prediction.V: alpha}[prediction]  # the network's output is zero at first
  np.testing.assert_allclose(quick(stage.denoise)(params, z, logsnr, stage._conditioning(batch)), want * z, atol=1e-5)
  assert sigma > 0


@pytest.mark.parametrize("sampler", list(SamplerKind))
def test_last_step_returns_the_clipped_prediction(sampler, case):
  stage, params, batch = case
  sampling = dataclasses.replace(stage.spec.sampling, sampler=sampler, guidance=GuidanceSpec())
  z = jax.random.normal(KEY, (4, *stage.spec.output.array))
  cond = conditioning(stage, batch)
  inputs = StepInputs(*(jnp.asarray(v) for v in (0.5, 20.0, 0.5, 0.0, True)))
  step = quick(functools.partial(stage.sample_step, sampling=sampling))
  state = step(params, SampleState(z, jnp.zeros_like(z)), cond, jnp.zeros_like(z), inputs)
  want = jnp.clip(quick(stage.denoise)(params, z, jnp.full((4,), 0.5), cond), -1, 1)
  np.testing.assert_allclose(state.z, want, atol=1e-4)


def test_bfloat16_network_keeps_float32_outside(case):
  stage, params, batch = case
  half = Stage(dataclasses.replace(stage.spec, unet=dataclasses.replace(stage.spec.unet, dtype="bfloat16")))
  loss, grads = quick(jax.value_and_grad(lambda p: half.loss(p, batch, KEY)[0].mean()))(params)
  assert loss.dtype == jnp.float32 and all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))
  full = quick(stage.loss)(params, batch, KEY)[0].mean()
  assert abs(float(loss) / float(full) - 1) < 0.05
