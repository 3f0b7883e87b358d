"""Networks that attend over space and time at once, join tokens of text, and read given frames."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.nets.unet import VideoUNet, frame_halo, pixel_halo
from ivid.spec.stage import LevelSpec, Norm, TimeMixing, UNetSpec
from ivid.stage import unbox

JOINT = LevelSpec(8, time=TimeMixing.JOINT, cross_attention=True)
SPEC = UNetSpec(
  levels=(LevelSpec(8, time=TimeMixing.CONVOLUTION), dataclasses.replace(JOINT, blocks=2)),
  embed_dim=8,
  head_dim=4,
  norm_groups=2,
  text_dim=6,
  text_width=4,
  text_patch=3,
  given=True,
)
B, T, H, W, L = 2, 3, 4, 8, 5


def normal(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def inputs(**changes):
  given = dict(
    z=normal(0, B, T, H, W, 3),
    logsnr=jnp.array([-1.0, 1.0]),
    text=normal(1, B, 1, L, 6),
    text_mask=jnp.array([[[True] * 4 + [False]], [[True] * 2 + [False] * 3]]),
    is_video=jnp.ones(B, bool),
    fps=jnp.full(B, 3.0),
  )
  return given | changes


@pytest.fixture(scope="module")
def net():
  """(function of inputs, parameters away from their zeros)."""
  module = VideoUNet(SPEC)
  given = (jnp.zeros((B, T, H, W, 3)), jnp.zeros((B, T), bool))
  shapes = unbox(jax.eval_shape(lambda: module.init(jax.random.key(0), **inputs(given=given)))["params"])
  rng = np.random.default_rng(3)
  params = jax.tree.map(lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), jnp.float32), shapes)
  apply = jax.jit(lambda p, given: module.apply({"params": p}, **given))
  return lambda **changes: np.asarray(apply(params, inputs(**changes))), params


def test_pictures_packed_into_a_clip_are_what_they_are_alone(net):
  run, _ = net
  text, mask = normal(2, B, T, L, 6), jnp.ones((B, T, L), bool)
  packed = run(text=text, text_mask=mask, is_video=jnp.zeros(B, bool))
  flat = inputs()["z"].reshape(B * T, 1, H, W, 3)
  each = dict(logsnr=jnp.repeat(inputs()["logsnr"], T), fps=jnp.full(B * T, 3.0))
  alone = run(z=flat, text=text.reshape(B * T, 1, L, 6), text_mask=mask.reshape(B * T, 1, L), is_video=None, **each)
  np.testing.assert_allclose(packed.reshape(alone.shape), alone, atol=2e-5)


def test_every_place_of_a_video_sees_every_other(net):
  run, _ = net
  before, moved = run(), run(z=inputs()["z"].at[:, 0, 0, 0].add(3.0))
  assert np.abs(moved - before)[:, -1, -1, -1].min() > 1e-4
  alone = dict(is_video=jnp.zeros(B, bool), text=normal(2, B, T, L, 6), text_mask=jnp.ones((B, T, L), bool))
  before, moved = run(**alone), run(z=inputs()["z"].at[:, 0, 0, 0].add(3.0), **alone)
  assert np.array_equal(moved[:, 1:], before[:, 1:]) and np.abs(moved - before)[:, 0, -1, -1].min() > 1e-4


def test_frames_are_told_apart_by_their_time(net):
  run, _ = net
  still = jnp.broadcast_to(inputs()["z"][:, :1], (B, T, H, W, 3))
  assert np.abs(np.diff(run(z=still), axis=1)).max() > 1e-3
  forwards, backwards = run(), run(z=inputs()["z"][:, ::-1])
  assert np.abs(forwards - backwards[:, ::-1]).max() > 1e-3


def test_masked_tokens_of_a_group_are_not_read(net):
  run, _ = net
  other = jnp.where(inputs()["text_mask"][..., None], inputs()["text"], 9.0)
  assert np.array_equal(run(), run(text=other))
  assert np.abs(run() - run(text=inputs()["text"].at[:, :, 0, 0].add(1.0))).max() > 1e-3


def test_given_frames_are_read_where_the_mask_says(net):
  run, params = net
  frames, none = normal(5, B, T, H, W, 3), jnp.zeros((B, T), bool)
  assert np.array_equal(run(), run(given=(frames, none)))
  first = none.at[:, 0].set(True)
  seen = run(given=(frames, first))
  assert np.abs(seen - run()).min(axis=(2, 3, 4)).max() > 0
  assert np.array_equal(seen, run(given=(frames.at[:, 1:].add(5.0), first)))
  assert set(params["conv_given"]) == {"kernel"}


def test_without_given_the_tree_is_as_before():
  plain = VideoUNet(dataclasses.replace(SPEC, given=False))
  shapes = jax.eval_shape(lambda: plain.init(jax.random.key(0), **inputs()))["params"]
  assert "conv_given" not in shapes
  with pytest.raises(AssertionError, match="without unet.given"):
    jax.eval_shape(lambda: plain.init(jax.random.key(0), **inputs(given=(inputs()["z"], jnp.ones((B, T), bool)))))


def test_joint_levels_are_never_cut():
  local = UNetSpec(levels=(JOINT,), norm=Norm.RMS, head_dim=4)
  assert not local.frame_local and not local.pixel_local
  for halo in (pixel_halo, frame_halo):
    with pytest.raises(ValueError):
      halo(local)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(levels=(dataclasses.replace(JOINT, spatial_attention=True),)), "joint attention spans space too"),
    (dict(text_width=0), "text_patch=3, text_width=0"),
    (dict(text_patch=0), "text_patch=0"),
    (dict(levels=(dataclasses.replace(JOINT, channels=6),), head_dim=4), "no multiple of head_dim=4"),
  ],
)
def test_bad_specs(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SPEC, **change)
