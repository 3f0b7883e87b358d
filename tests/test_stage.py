"""Stage: what meets in it, on the tiny cascade."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.config import load_run
from ivid.data.example import index_words
from ivid.diffusion import process, samplers, schedule
from ivid.diffusion.distill import Teacher
from ivid.diffusion.samplers import SampleState, StepInputs
from ivid.diffusion.schedule import alpha_sigma
from ivid.flops import count_params
from ivid.measure.dry_run import evaluation_flops
from ivid.nets.second_way_up import from_teacher
from ivid.sample.programs import step_inputs
from ivid.spec import batch as batches
from ivid.spec.sampling import GuidanceSpec, SamplerKind, SamplingSpec, StudentSpec
from ivid.spec.stage import LossWeight, Prediction
from ivid.stage import Stage, unbox

TINY = load_run("tiny:base").cascade
NANO = load_run("nano:base").cascade
# Imagen Video, figure 6, in thousandths; and the project's budget of arithmetic for one evaluation.
NANO_SIZES = dict(base=5.6e6, tsr1=1.7e6, ssr1=1.4e6, ssr2=1.2e6, tsr2=0.78e6, tsr3=0.63e6, ssr3=0.34e6)
NANO_GFLOP = dict(base=9, tsr1=8, ssr1=12, ssr2=40, tsr2=60, tsr3=120, ssr3=700)
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
    batches.INDEX: index_words(range(10, 10 + rows)),
  }


@pytest.fixture(scope="module", params=["base", "ssr1"])
def case(request):
  stage = Stage(TINY.stage(request.param))
  return stage, shaken(stage), make_batch(stage)


def test_loss_of_an_example_does_not_depend_on_its_place_or_neighbours(case):
  stage, params, batch = case
  loss = jax.jit(stage.loss)
  losses, u = loss(params, batch, KEY)
  turned, turned_u = loss(params, jax.tree.map(lambda a: a[::-1], batch), KEY)
  np.testing.assert_allclose(losses, turned[::-1], rtol=1e-4)
  np.testing.assert_array_equal(u, turned_u[::-1])
  assert np.isfinite(losses).all() and len(set(np.asarray(u).tolist())) == len(u)


def test_normal_levels_of_training_are_those_that_the_loss_is_of():
  stage = Stage(TINY.stage("base"))
  params, batch = shaken(stage), make_batch(stage)
  losses, u = jax.jit(functools.partial(stage.loss, logsnr_std=2.0))(params, batch, KEY)
  level = schedule.normal_logsnr(u, mean=stage.spec.diffusion.logsnr_shift, std=2.0)
  assert not np.allclose(level, stage.schedule(u), atol=0.1)
  moved = Stage(stage.spec)
  moved.schedule = lambda _: level
  expected, same = jax.jit(moved.loss)(params, batch, KEY)
  np.testing.assert_array_equal(u, same)
  np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_dropping_the_text_for_all_makes_the_loss_blind_to_it(case):
  stage, params, batch = case
  blind = Stage(dataclasses.replace(stage.spec, diffusion=dataclasses.replace(stage.spec.diffusion, text_drop=1.0)))
  other = dict(batch, text=batch["text"] + 1)
  blind_loss = jax.jit(blind.loss)
  np.testing.assert_array_equal(blind_loss(params, batch, KEY)[0], blind_loss(params, other, KEY)[0])
  seen = Stage(dataclasses.replace(stage.spec, diffusion=dataclasses.replace(stage.spec.diffusion, text_drop=0.0)))
  seen_loss = jax.jit(seen.loss)
  assert np.abs(np.asarray(seen_loss(params, batch, KEY)[0]) - np.asarray(seen_loss(params, other, KEY)[0])).max() > 1e-5


def conditioning(stage, batch):
  cond = stage.conditioning(batch)
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
  denoise, guided = jax.jit(stage.denoise), jax.jit(stage.guided)
  x_hat = denoise(params, z, logsnr, cond)
  np.testing.assert_allclose(guided(params, z, logsnr, cond, jnp.asarray(0.0)), x_hat, atol=1e-5)
  x_uncond = denoise(params, z, logsnr, cond.replace(text_mask=jnp.zeros_like(cond.text_mask)))
  np.testing.assert_allclose(guided(params, z, logsnr, cond, jnp.asarray(1.5)), 2.5 * x_hat - 1.5 * x_uncond, atol=1e-4)


@pytest.mark.parametrize("prediction", list(Prediction))
def test_denoise_converts_what_the_network_predicts(prediction):
  spec = TINY.stage("base")
  stage = Stage(dataclasses.replace(spec, diffusion=dataclasses.replace(spec.diffusion, prediction=prediction)))
  params, batch = shaken(stage), make_batch(stage, rows=1)
  z = jax.random.normal(KEY, (1, *spec.output.array))
  args = params, z, jnp.asarray([1.0]), stage.conditioning(batch)
  x_hat, output = jax.jit(lambda *given: (stage.denoise(*given), stage.predict(*given)))(*args)
  alpha, sigma = np.sqrt(1 / (1 + np.exp(-1.0))), np.sqrt(1 / (1 + np.exp(1.0)))  # z = alpha x + sigma eps, v = alpha eps - sigma x
  want = {Prediction.X: output, Prediction.EPS: (z - sigma * output) / alpha, Prediction.V: alpha * z - sigma * output}[prediction]
  assert np.abs(output).max() > 0.1
  np.testing.assert_allclose(x_hat, want, atol=1e-5)


@pytest.mark.parametrize("sampler", list(SamplerKind))
def test_last_step_returns_the_clipped_prediction(sampler, case):
  stage, params, batch = case
  sampling = dataclasses.replace(stage.spec.sampling, sampler=sampler, guidance=GuidanceSpec())
  z = jax.random.normal(KEY, (4, *stage.spec.output.array))
  cond = conditioning(stage, batch)
  inputs = StepInputs(*(jnp.asarray(v) for v in (0.5, 20.0, 0.5, 20.0, 0.0, True)))
  step = jax.jit(functools.partial(stage.sample_step, sampling=sampling))
  state = step(params, SampleState(z, jnp.zeros_like(z)), cond, jnp.zeros_like(z), inputs)
  want = jnp.clip(jax.jit(stage.denoise)(params, z, jnp.full((4,), 0.5), cond), -1, 1)
  np.testing.assert_allclose(state.z, want, atol=1e-4)


def test_bfloat16_network_keeps_float32_outside(case):
  stage, params, batch = case
  half = Stage(dataclasses.replace(stage.spec, unet=dataclasses.replace(stage.spec.unet, dtype="bfloat16")))
  loss, grads = jax.jit(jax.value_and_grad(lambda p: half.loss(p, batch, KEY)[0].mean()))(params)
  assert loss.dtype == jnp.float32 and all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))
  full = jax.jit(stage.loss)(params, batch, KEY)[0].mean()
  assert abs(float(loss) / float(full) - 1) < 0.05


def levels_seen(shift):
  """Levels that networks are evaluated at, with a schedule so shifted: in training, in a student's halving, and from step to step."""
  spec = TINY.stage("base")
  spec = dataclasses.replace(spec, diffusion=dataclasses.replace(spec.diffusion, logsnr_shift=shift))
  halved = dataclasses.replace(spec, student=StudentSpec("", steps=2), sampling=SamplingSpec(steps=2))
  trained, teacher, student = Stage(spec), Stage(spec), Stage(halved)
  seen = []
  for stage in (trained, teacher, student):
    stage.predict = lambda params, z, logsnr, cond: seen.append(np.asarray(logsnr)) or jnp.zeros_like(z)
  batch = make_batch(trained)
  trained.loss(None, batch, KEY)
  student.distill_loss(None, Teacher(None, jnp.float32(2)), batch, KEY, teacher_stage=teacher, loss_weight=LossWeight.X)
  assert len(seen) == 4  # the last three: the teacher's two steps, and the student
  return [*seen, *(np.stack([step.logsnr_t, step.logsnr_s]) for step in step_inputs(trained, SamplingSpec(steps=3)))]


def test_training_distillation_and_sampling_are_shifted_alike():
  for shifted, plain in zip(levels_seen(-1.5), levels_seen(0.0), strict=True):
    np.testing.assert_allclose(shifted, plain - 1.5, atol=1e-4)


# Distillation.


@pytest.fixture(scope="module")
def taught():
  """The tiny base, a student of it in guidance with weights of its own, and a batch."""
  spec = TINY.stage("base")
  student = dataclasses.replace(spec, student=StudentSpec("", w_max=4.0), sampling=SamplingSpec())
  return Stage(spec), Stage(student), shaken(Stage(spec)), make_batch(Stage(spec))


def test_guidance_distillation_asks_for_what_two_evaluations_give(taught):
  teacher, student, params, batch = taught
  rows = {name: value[:2] for name, value in batch.items()}
  loss = functools.partial(student.distill_loss, teacher_stage=teacher, loss_weight=LossWeight.TRUNCATED_SNR)
  losses, u = jax.jit(loss)(params, Teacher(params, jnp.float32(0)), rows, KEY)
  # Once more by hand.
  x, cond, keys = jax.jit(functools.partial(student._training_inputs, drop_text=False))(rows, KEY)
  eps = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), x.shape[1:]))(keys)
  w = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 4)))(keys)
  logsnr = student.schedule(u)
  z_t = process.q_sample(x=x, eps=eps, logsnr=logsnr)
  target = jax.jit(teacher.guided)(params, z_t, logsnr, cond, 4.0 * w)
  made = jax.jit(teacher.denoise)(params, z_t, logsnr, cond.replace(w=4.0 * w))
  weight = jnp.maximum(jnp.square(jnp.divide(*alpha_sigma(logsnr))), 1.0)
  weight = jnp.minimum(weight, jnp.maximum(jax.nn.sigmoid(logsnr) / student.spec.diffusion.sigma_floor**2, 1.0))
  assert (losses > 1e-5).all()
  measure = jax.jit(functools.partial(student.teaching_error, teacher_stage=teacher))
  error, norm, added = measure(params, params, rows, KEY, w=4.0 * w, u=u)
  np.testing.assert_allclose(error, jnp.sum(jnp.square(made - target), axis=(1, 2, 3, 4)), rtol=2e-3)
  np.testing.assert_allclose(norm, jnp.sum(jnp.square(target), axis=(1, 2, 3, 4)), rtol=2e-3)
  alone = jax.jit(teacher.denoise)(params, z_t, logsnr, cond)
  np.testing.assert_allclose(added, jnp.sum(jnp.square(alone - target), axis=(1, 2, 3, 4)), rtol=2e-3)
  weight = weight / jnp.square(1.0 + 4.0 * w)
  np.testing.assert_allclose(losses, weight * jnp.mean(jnp.square(made - target), axis=(1, 2, 3, 4)), rtol=2e-3)


def test_a_second_way_up_is_all_that_guidance_distillation_trains(taught):
  """It begins as the first: w (x_cond - x_hat of the same features without text) is then what it adds."""
  teacher, student, params, batch = taught
  unet = dataclasses.replace(student.spec.unet, second_way_up=True)
  second, rows = Stage(dataclasses.replace(student.spec, unet=unet)), {name: value[:2] for name, value in batch.items()}
  told_w = dict(w=jax.tree.map(jnp.zeros_like, params["condition"]["w"]))  # no teacher has learnt these
  params = params | dict(condition=params["condition"] | told_w)
  begun = from_teacher(params, unet)
  assert jax.tree.map(jnp.shape, begun) == jax.tree.map(jnp.shape, unbox(second.abstract_params()))
  _, cond, _ = jax.jit(functools.partial(student._training_inputs, drop_text=False))(rows, KEY)
  z, level = jnp.ones(rows[batches.VIDEO].shape, jnp.float32), jnp.zeros(2)
  guided = jax.jit(second.guided)
  alone, once, twice = (guided(begun, z, level, cond, jnp.float32(w)) for w in (0.0, 1.0, 2.0))
  np.testing.assert_allclose(alone, jax.jit(teacher.denoise)(params, z, level, cond), atol=1e-6)
  np.testing.assert_allclose(twice - alone, 2.0 * (once - alone), atol=1e-5)
  assert float(jnp.abs(once - alone).max()) > 1e-3
  loss = functools.partial(second.distill_loss, teacher_stage=teacher, loss_weight=LossWeight.X)
  gradient = jax.jit(jax.grad(lambda p: loss(p, Teacher(params, jnp.float32(0)), rows, KEY)[0].sum()))(begun)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert path[0].key.startswith("second_") or not leaf.any(), jax.tree_util.keystr(path)
  assert all(jnp.abs(jax.tree.leaves(gradient[name])[0]).max() > 0 for name in gradient if name.startswith("second_"))


def test_a_students_step_costs_one_evaluation_and_reads_w(taught):
  _, student, params, batch = taught
  cond = student.conditioning(batch)
  z = jnp.ones(batch[batches.VIDEO].shape, jnp.float32)
  step = jax.jit(lambda w: student.guided(params, z, jnp.zeros(z.shape[0]), cond, w))
  given = jax.jit(lambda w: student.denoise(params, z, jnp.zeros(z.shape[0]), cond.replace(w=jnp.full(z.shape[0], w))))
  np.testing.assert_array_equal(step(jnp.float32(3.0)), given(jnp.float32(3.0)))
  assert float(jnp.abs(step(jnp.float32(3.0)) - step(jnp.float32(0.0))).max()) > 1e-3


def test_a_halving_asks_for_what_two_steps_of_the_sampler_give(taught):
  """The loss of a halving is the error against the target that two steps of the teacher's own sampler lead to."""
  _, teacher, params, batch = taught
  steps = 2
  student = Stage(dataclasses.replace(teacher.spec, student=StudentSpec("", steps, w_max=0.0), sampling=SamplingSpec(steps=steps)))
  loss = functools.partial(student.distill_loss, teacher_stage=teacher, loss_weight=LossWeight.TRUNCATED_SNR)
  losses, u = jax.jit(loss)(params, Teacher(params, jnp.float32(steps)), batch, KEY)
  assert set(np.asarray(u).tolist()) <= {0.5, 1.0}
  # Once more by hand, with the sampler's own steps.
  x, cond, keys = jax.jit(student._training_inputs)(batch, KEY)
  eps = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), x.shape[1:]))(keys)
  levels = [student.schedule(jnp.maximum(u - part / steps, 0.0)) for part in (0.0, 0.5, 1.0)]
  z_t = process.q_sample(x=x, eps=eps, logsnr=levels[0])
  given = cond.replace(w=jnp.zeros(x.shape[0]))
  denoise = jax.jit(lambda z, level: teacher.denoise(params, z, level, given))
  first = denoise(z_t, levels[0])
  z_mid = samplers.ddim_step(z_t=z_t, x_hat=first, logsnr_t=levels[0], logsnr_s=levels[1])
  second = denoise(z_mid, levels[1])
  z_s = samplers.ddim_step(z_t=z_mid, x_hat=second, logsnr_t=levels[1], logsnr_s=levels[2])
  alpha_t, sigma_t = alpha_sigma(levels[0])
  alpha_s, sigma_s = alpha_sigma(levels[2])
  wide = lambda a: a[:, None, None, None, None]  # noqa: E731
  ratio = sigma_s / sigma_t
  target = jnp.where(wide(u) > 0.5, (z_s - wide(ratio) * z_t) / wide(alpha_s - ratio * alpha_t), second)
  made = denoise(z_t, levels[0])
  weight = jnp.maximum(jnp.exp(levels[0]), 1.0)
  np.testing.assert_allclose(losses, weight * jnp.mean(jnp.square(made - target), axis=(1, 2, 3, 4)), rtol=2e-3, atol=1e-6)
