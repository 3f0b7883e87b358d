"""Given frames: which ones in training, what the loss counts, and that they come out of sampling as they went in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.data.example import index_words
from ivid.diffusion.loss import weighted_loss
from ivid.sample.stage_sampler import sample_stage
from ivid.sample.tiling import tile_stage
from ivid.spec import batch as batches
from ivid.spec.clip import ClipShape
from ivid.spec.sampling import GuidanceSpec, SamplerKind, SamplingSpec, ThresholdKind
from ivid.spec.stage import LevelSpec, LossWeight, Prediction, StageSpec, Task, TimeMixing, UNetSpec
from ivid.stage import Stage, unbox
from ivid.video.given import draw_given, given_patterns

UNET = UNetSpec(levels=(LevelSpec(8, time=TimeMixing.ATTENTION),), embed_dim=8, head_dim=4, norm_groups=2, text_dim=6, given=True)
BASE = StageSpec("base", Task.BASE, ClipShape(4, 4, 8, 1.0), UNET)


def params_of(spec):
  rng = np.random.default_rng(3)
  return jax.tree.map(lambda a: (0.2 * rng.standard_normal(a.shape)).astype(a.dtype), unbox(Stage(spec).abstract_params()))


def make_batch(rows, *, is_video=True, frames=4):
  rng = np.random.default_rng(0)
  return {
    batches.VIDEO: jnp.asarray(rng.integers(0, 256, (rows, frames, 4, 8, 3)), jnp.uint8),
    batches.TEXT: jnp.asarray(rng.normal(size=(rows, 1, 3, 6)), jnp.bfloat16),
    batches.TEXT_MASK: jnp.ones((rows, 1, 3), bool),
    batches.IS_VIDEO: jnp.full(rows, is_video),
    batches.FPS: jnp.ones(rows),
    batches.INDEX: index_words(range(rows)),
  }


def test_patterns_of_sixteen_frames():
  patterns, shares = given_patterns(16)
  found = {"".join("x" if given else "." for given in row): share for row, share in zip(patterns, shares, strict=True)}
  assert found == {
    "x...............": 0.25,
    "xxxxxxxx........": 0.25,
    "x..............x": 0.25,
    "x.x.x.x.x.x.x.x.": pytest.approx(1 / 12),
    "x...x...x...x...": pytest.approx(1 / 12),
    "x.......x.......": pytest.approx(1 / 12),
  }


@pytest.mark.parametrize(("frames", "count"), [(1, 0), (2, 2), (3, 3), (4, 4)])
def test_patterns_always_leave_something_to_learn(frames, count):
  patterns, shares = given_patterns(frames)
  assert patterns.shape == (count, frames)
  assert all(0 < row.sum() < frames for row in patterns)
  assert not count or shares.sum() == pytest.approx(1)


def test_share_of_clips_and_of_patterns():
  draw = (jnp.arange(6000) + 0.5) / 6000
  mask = np.asarray(draw_given(draw=draw, is_video=jnp.ones(6000, bool), frames=16, share=0.3))
  assert mask.any(1).mean() == pytest.approx(0.3, abs=0.002)
  patterns, shares = given_patterns(16)
  for pattern, share in zip(patterns, shares, strict=True):
    assert (mask == pattern).all(1).mean() == pytest.approx(0.3 * share, abs=0.002)
  assert not np.asarray(draw_given(draw=draw, is_video=jnp.zeros(6000, bool), frames=16, share=1.0)).any()
  assert not np.asarray(draw_given(draw=draw, is_video=jnp.ones(6000, bool), frames=16, share=0.0)).any()


def test_loss_counts_the_other_frames_alone():
  rng = np.random.default_rng(0)
  x, eps, output = (jnp.asarray(rng.normal(size=(2, 4, 2, 2, 3)), jnp.float32) for _ in range(3))
  asked = jnp.array([[False, True, True, False], [True] * 4])
  common = dict(kind=LossWeight.V, prediction=Prediction.V, x=x, eps=eps, z_t=x, logsnr=jnp.zeros(2), sigma_floor=0.0)
  part, whole = (np.asarray(weighted_loss(output=output, **common, **mask)) for mask in (dict(asked=asked), {}))
  wrong = np.asarray(weighted_loss(output=output.at[0, 0].add(9.0), asked=asked, **common))
  short = {name: a[:1, 1:3] for name, a in dict(x=x, eps=eps, z_t=x).items()}
  alone = weighted_loss(output=output[:1, 1:3], **(common | short | dict(logsnr=jnp.zeros(1))))
  assert part[1] == pytest.approx(whole[1], rel=1e-6) and part[0] == pytest.approx(float(alone[0]), rel=1e-6)
  assert np.array_equal(part, wrong)


def test_training_gives_frames_to_clips_and_never_to_pictures():
  always = dataclasses.replace(BASE, diffusion=dataclasses.replace(BASE.diffusion, given_share=1.0))
  never = dataclasses.replace(BASE, diffusion=dataclasses.replace(BASE.diffusion, given_share=0.0))
  params, key = params_of(BASE), jax.random.key(0)
  given, plain = (np.asarray(Stage(spec).loss(params, make_batch(8), key)[0]) for spec in (always, never))
  assert (given != plain).all()
  given, plain = (np.asarray(Stage(spec).loss(params, make_batch(8, is_video=False), key)[0]) for spec in (always, never))
  assert np.array_equal(given, plain)


SAMPLINGS = [
  SamplingSpec(steps=3, guidance=GuidanceSpec(weight=2.0), threshold=ThresholdKind.DYNAMIC, percentile=60.0),
  SamplingSpec(steps=3, sampler=SamplerKind.ANCESTRAL),
  SamplingSpec(steps=3, sampler=SamplerKind.DPM_SOLVER_PP_2M, guidance=GuidanceSpec(weight=1.0)),
]


@pytest.mark.parametrize(
  ("sampling", "reads"),
  [
    (SAMPLINGS[0], True),
    (SAMPLINGS[1], False),
    *(pytest.param(SAMPLINGS[n], reads, marks=pytest.mark.slow) for n, reads in ((0, False), (1, True), (2, True), (2, False))),
  ],
)
def test_given_frames_come_out_of_sampling_exactly(sampling, reads):
  """Whether the network reads them, or they take their place in z_t."""
  base = dataclasses.replace(BASE, unet=dataclasses.replace(UNET, given=reads))
  frames = np.random.default_rng(1).uniform(-1, 1, (2, 4, 4, 8, 3)).astype(np.float32)
  mask = np.array([[True, False, False, True], [False] * 4])
  keys, params, seen = jax.vmap(jax.random.key)(jnp.arange(2)), params_of(base), []
  text = dict(text=np.ones((2, 1, 3, 6), np.float32), text_mask=np.ones((2, 1, 3), bool))
  common = dict(keys=keys, sampling=sampling, progress=lambda *step: seen.append(step), **text)
  made = sample_stage(Stage(base), params, given=(frames, mask), resamplings=2, **common)
  assert seen[-1] == ((3, 3) if reads else (5, 5))  # the last step is made once
  assert np.array_equal(made[mask], frames[mask])
  assert not np.array_equal(made[0, 1], frames[0, 1])
  free = sample_stage(Stage(base), params, **common)
  if reads:
    np.testing.assert_allclose(made[1], free[1], atol=1e-5)  # nothing is given to the second
  assert np.abs(made[0, 1:3] - free[0, 1:3]).max() > 1e-3  # what is given changes the rest of the first


@pytest.mark.parametrize(
  ("sampler", "reads"),
  [
    (SamplerKind.ANCESTRAL, False),
    *(
      pytest.param(kind, reads, marks=pytest.mark.slow)
      for kind, reads in ((SamplerKind.ANCESTRAL, True), (SamplerKind.DPM_SOLVER_PP_2M, True), (SamplerKind.DPM_SOLVER_PP_2M, False))
    ),
  ],
)
def test_given_frames_in_tiles(sampler, reads):
  level = LevelSpec(8, time=TimeMixing.CONVOLUTION)
  base = StageSpec("base", Task.BASE, ClipShape(12, 4, 8, 1.0), dataclasses.replace(UNET, levels=(level,), given=reads))
  frames = np.random.default_rng(1).uniform(-1, 1, (1, *base.output.array)).astype(np.float32)
  mask = (np.arange(12) % 5 == 0)[None]
  tiling, sampling = tile_stage(base, (8, 0, 0)), SamplingSpec(steps=3, sampler=sampler)
  text = dict(text=np.ones((1, 1, 3, 6), np.float32), text_mask=np.ones((1, 1, 3), bool))
  common = dict(keys=jax.random.key(0)[None], sampling=sampling, given=(frames, mask), resamplings=2, **text)
  whole, tiled = (sample_stage(Stage(base), params_of(base), tiling=t, **common) for t in (None, tiling))
  assert tiling.count > 1 and np.array_equal(tiled[mask], frames[mask])
  np.testing.assert_allclose(tiled, whole, atol=1e-4)


def test_given_frames_that_do_not_fit():
  given, options = (np.zeros((1, 2, 4, 8, 3)), np.zeros((1, 2))), dict(text=np.ones((1, 1, 3, 6)), text_mask=np.ones((1, 1, 3)))
  with pytest.raises(ValueError, match=r"expected \(1, 4, 4, 8, 3\) and \(1, 4\)"):
    sample_stage(Stage(BASE), {}, keys=jax.random.key(0)[None], sampling=SamplingSpec(), given=given, **options)


def test_given_is_the_base_s_alone():
  with pytest.raises(ValueError, match="given frames are the base's"):
    from ivid.spec.stage import LowresSpec

    StageSpec("ssr", Task.SSR, ClipShape(4, 8, 16, 1.0), UNET, lowres=LowresSpec(input=BASE.output))
