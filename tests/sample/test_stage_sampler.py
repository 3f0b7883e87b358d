"""One stage: a sample is a function of its own key, wherever it is computed."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from ivid.parallel.mesh import make_mesh
from ivid.programs import Program
from ivid.sample import programs, running, stage_sampler
from ivid.sample.keys import Sample, key_words, sample_keys
from ivid.spec.run import MeshSpec
from ivid.spec.sampling import GuidanceSpec, SamplerKind, SamplingSpec
from ivid.stage import Stage
from tests.compiling import compilations
from tests.sample import tiny

ROUNDING = 5e-5
SPEC = tiny.tiny_cascade("")
PARAMS = {stage.name: tiny.random_params(stage, i) for i, stage in enumerate(SPEC.stages)}
RNG = np.random.default_rng(0)
TEXT = RNG.standard_normal((8, 1, 24, 16)).astype(np.float32)
SMALL = {n: RNG.uniform(-1, 1, (8, *SPEC.stage(n).lowres.input.array)).astype(np.float32) for n in ("tsr1", "ssr1")}


def draw(name, rows, *, mesh=None, sampling=None, aug_snr=None, progress=None, output=None):
  """Clips of the samples numbered `rows`; `output`: what is another in the stage's output."""
  spec, rows = SPEC.stage(name), list(rows)
  spec = dataclasses.replace(spec, output=dataclasses.replace(spec.output, **(output or {})))
  if aug_snr:
    spec = dataclasses.replace(spec, lowres=dataclasses.replace(spec.lowres, aug_snr=aug_snr))
  return stage_sampler.sample_stage(
    Stage(spec),
    PARAMS[name],
    keys=sample_keys([Sample("a red ball", 0, n) for n in rows], name),
    text=TEXT[rows],
    text_mask=np.ones((len(rows), 1, 24), bool),
    small=SMALL[name][rows] if name in SMALL else None,
    sampling=sampling or spec.sampling,
    progress=progress,
    mesh=mesh,
  )


def test_keys_depend_on_seed_prompt_number_and_stage_alone():
  keys = {
    key_words(Sample(prompt, seed, number), stage).tobytes()
    for prompt in ("a", "b")
    for seed in (0, 1)
    for number in (0, 1)
    for stage in ("base", "ssr1")
  }
  assert len(keys) == 16
  # Written down: what a seed draws must not change from one version to the next.
  assert key_words(Sample("a red ball", 0, 0), "base").tolist() == [1599481618, 2645278826]


def test_alone_equals_in_a_batch():
  together = draw("base", [0, 1])
  assert together.shape == (2, *SPEC.stage("base").output.array) and together.dtype == np.float32
  assert np.abs(together).max() <= 1.0 and np.abs(together[0] - together[1]).mean() > 0.01
  np.testing.assert_allclose(draw("base", [1])[0], together[1], atol=ROUNDING)
  np.testing.assert_allclose(draw("base", [1, 0]), together[::-1], atol=ROUNDING)


def test_one_device_equals_eight():
  if jax.device_count() < 8:
    pytest.skip("needs 8 devices")
  mesh = make_mesh(MeshSpec())
  sharded = draw("ssr1", range(8), mesh=mesh)
  np.testing.assert_allclose(sharded[5], draw("ssr1", [5])[0], atol=ROUNDING)
  with pytest.raises(ValueError, match="a batch of 3 clips on a mesh of 8 rows: expected multiples of 8"):
    draw("ssr1", range(3), mesh=mesh)


def test_other_step_counts_weights_and_levels_compile_nothing_new():
  first = draw("tsr1", [0])
  with compilations() as compiled:
    for changes in (dict(steps=5), dict(guidance=GuidanceSpec(weight=3.0, low=1.0))):
      other = draw("tsr1", [0], sampling=dataclasses.replace(tiny.GUIDED, **changes))
      assert np.abs(other - first).max() > 1e-3
    strong, weak = draw("tsr1", [0], aug_snr=0.5), draw("tsr1", [0], aug_snr=50.0)
    assert np.abs(strong - weak).mean() > 1e-3
  costly = {"jit(step)", "jit(lowres)"}  # those with a network or a whole clip; a schedule of five steps has a few of its own
  assert not costly & set(compiled)
  with compilations() as compiled:  # another sampler is another program
    draw("tsr1", [0], sampling=dataclasses.replace(tiny.GUIDED, sampler=SamplerKind.DPM_SOLVER_PP_2M))
  assert "jit(step)" in compiled


def test_one_step_is_the_denoiser():
  """With a single step the result is the thresholded guided x_hat at the first level."""
  stage = Stage(SPEC.stage("base"))
  sampling = dataclasses.replace(tiny.GUIDED, steps=1)
  cond = programs.sample_args(stage, sampling, batch_size=1, max_tokens=24)[2]
  cond = cond.replace(text=TEXT[:1], text_mask=np.ones((1, 1, 24), bool), is_video=np.ones(1, bool), fps=np.full(1, 2.0, np.float32))
  z = running.draw_noise(sample_keys([Sample("a red ball", 0, 0)], "base"), SPEC.stage("base").output.array, running.INITIAL)
  level = np.full(1, stage.spec.diffusion.logsnr_min, np.float32)
  x_hat = Program("guided", stage.guided).jit()(PARAMS["base"], z, level, cond, np.float32(1.0))
  np.testing.assert_allclose(draw("base", [0], sampling=sampling), np.clip(x_hat, -1, 1), atol=ROUNDING)


def test_one_frame_of_a_base_is_a_picture_which_has_no_rate():
  one, other = (draw("base", [0], output=dict(frames=1, fps=fps)) for fps in (1.0, 50.0))
  np.testing.assert_allclose(one, other, atol=ROUNDING)
  assert np.abs(draw("base", [0], output=dict(fps=50.0)) - draw("base", [0])).mean() > 1e-3


def test_progress_counts_steps():
  seen = []
  draw("ssr1", [0], progress=lambda done, total: seen.append((done, total)))
  assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize("name, sampler", list(zip(itertools.cycle(["base", "tsr1", "ssr1"]), SamplerKind)))
def test_program_keeps_its_state(name, sampler):
  """The step's result has the shapes of the state it takes, for the abstract arguments that are compiled ahead of time."""
  stage = Stage(SPEC.stage(name))
  sampling = SamplingSpec(sampler=sampler, guidance=GuidanceSpec(weight=1.0))
  args = programs.sample_args(stage, sampling, batch_size=2, max_tokens=5)
  program = programs.make_sample_program(stage, sampling, args)
  out = jax.eval_shape(program.fn, *program.args)
  assert jax.tree.map(lambda a: (a.shape, a.dtype), out) == jax.tree.map(lambda a: (a.shape, a.dtype), args[1])


def test_input_sizes_are_checked():
  stage, spec = Stage(SPEC.stage("ssr1")), SPEC.stage("ssr1")
  common = dict(keys=sample_keys([Sample("x", 0, 0)], "ssr1"), text=TEXT[:1], text_mask=np.ones((1, 1, 24), bool), sampling=spec.sampling)
  with pytest.raises(ValueError, match="input clip of 2x8x12: stage ssr1 takes 4x8x12"):
    stage_sampler.sample_stage(stage, PARAMS["ssr1"], small=SMALL["tsr1"][:1], **common)
  with pytest.raises(ValueError, match="stage ssr1 needs an input clip of 4x8x12@4fps"):
    stage_sampler.sample_stage(stage, PARAMS["ssr1"], **common)
