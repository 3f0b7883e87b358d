"""Packed pictures in a stage that makes frames: each is conditioned on itself, and trained as if it were alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.config import load_run
from ivid.data.example import index_words
from ivid.spec import batch as batches
from ivid.spec.stage import LossWeight, Prediction
from ivid.stage import Stage, unbox
from tests.compiling import compilations

FRAMES, SIDE, TOKENS = 4, 12, 3


def clean_stage():
  """tiny's tsr1 on its lower level, where no noise is as large as a pixel's last digit: the loss then depends on no draw."""
  spec = load_run("tiny:tsr1").cascade.stage("tsr1")
  diffusion = dataclasses.replace(
    spec.diffusion, prediction=Prediction.X, loss_weight=LossWeight.X, logsnr_min=19.99999, logsnr_max=20.0, text_drop=0.0
  )
  unet = dataclasses.replace(spec.unet, levels=spec.unet.levels[1:])
  return Stage(
    dataclasses.replace(
      spec, unet=unet, diffusion=diffusion, lowres=dataclasses.replace(spec.lowres, aug_logsnr_min=20.0, aug_logsnr_max=20.0)
    )
  )


def made(rng, *, images):
  """A batch of one row of packed pictures, or of each of its pictures alone."""
  video = rng.integers(0, 256, (1, FRAMES, SIDE, SIDE, 3)).astype(np.uint8)
  text = rng.normal(size=(1, FRAMES, TOKENS, 256)).astype(np.float32)
  mask = rng.random((1, FRAMES, TOKENS)) < 0.7
  rows = 1 if images else FRAMES
  if not images:
    video, text, mask = video.reshape(FRAMES, 1, SIDE, SIDE, 3), text.reshape(FRAMES, 1, TOKENS, 256), mask.reshape(FRAMES, 1, TOKENS)
  return {
    batches.VIDEO: jnp.asarray(video),
    batches.TEXT: jnp.asarray(text, jnp.bfloat16),
    batches.TEXT_MASK: jnp.asarray(mask),
    batches.IS_VIDEO: jnp.zeros(rows, bool),
    batches.FPS: jnp.full(rows, 1.5, jnp.float32),
    batches.INDEX: index_words(range(rows)),
  }


def test_loss_and_gradient_of_a_packed_picture_are_those_of_the_picture_alone():
  stage = clean_stage()
  rng = np.random.default_rng(3)
  params = jax.tree.map(lambda a: (0.15 * rng.standard_normal(a.shape)).astype(a.dtype), unbox(stage.abstract_params()))

  def mean(batch):
    return jax.jit(jax.value_and_grad(lambda p: jnp.mean(stage.loss(p, batch, jax.random.key(1))[0])))(params)

  packed, alone = (mean(made(np.random.default_rng(0), images=images)) for images in (True, False))
  assert float(packed[0]) == pytest.approx(float(alone[0]), rel=1e-4)
  largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(packed[1]))
  for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(packed[1]), jax.tree.leaves(alone[1]), strict=True):
    np.testing.assert_allclose(one, other, rtol=5e-3, atol=5e-4 * largest, err_msg=jax.tree_util.keystr(path))


def test_a_packed_picture_is_conditioned_on_itself_and_a_clip_on_its_every_other_frame():
  stage = clean_stage()
  seen = {}
  stage.predict = lambda params, z, logsnr, cond: seen.update(lowres=cond.lowres) or jnp.zeros_like(z)
  row = made(np.random.default_rng(0), images=True)
  both = jax.tree.map(lambda a: jnp.concatenate([a, a]), {name: a for name, a in row.items() if not name.startswith("text")})
  text = jnp.concatenate([row[batches.TEXT], row[batches.TEXT][:, :1]], axis=1)  # a group of a picture row and a clip
  mask = jnp.concatenate([row[batches.TEXT_MASK], row[batches.TEXT_MASK][:, :1]], axis=1)
  both |= {batches.TEXT: text, batches.TEXT_MASK: mask, batches.IS_VIDEO: jnp.array([False, True])}
  stage.loss(None, both, jax.random.key(1))
  x = both[batches.VIDEO].astype(jnp.float32) / 127.5 - 1.0
  np.testing.assert_allclose(seen["lowres"][0], x[0], atol=1e-3)
  np.testing.assert_allclose(seen["lowres"][1], x[1][jnp.array([0, 0, 2, 2])], atol=1e-3)


def test_one_compiled_loss_serves_pictures_and_clips():
  """What rows hold is data: a batch whose pictures are clips and whose clips are pictures is no new program."""
  stage, layout = clean_stage(), batches.CaptionLayout(rows=2, images=1)
  arrays = batches.batch_spec(stage.spec, batch_size=2, frames=FRAMES, height=SIDE, width=SIDE, max_tokens=TOKENS, captions=layout)
  batch = {name: jnp.ones(a.shape, a.dtype) for name, a in arrays.items()} | {batches.IS_VIDEO: jnp.array([False, True])}
  params = unbox(stage.init(jax.random.key(0)))
  loss = jax.jit(stage.loss)
  loss(params, batch, jax.random.key(1))
  other = batch | {batches.IS_VIDEO: jnp.array([True, False])}
  with compilations() as asked:
    losses, _ = loss(params, other, jax.random.key(1))
  assert np.isfinite(losses).all() and not asked, asked
