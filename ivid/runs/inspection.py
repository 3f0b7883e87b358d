"""The contact sheet of `ivid data inspect`: everything that a stage's network reads, and its target."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ivid.data.pipeline import CAPTIONS, Split, make_pipeline
from ivid.diffusion import augment, process
from ivid.diffusion.keys import example_keys
from ivid.media.clips import from_uint8, to_uint8
from ivid.media.sheet import contact_sheet
from ivid.spec import batch as batches
from ivid.spec.run import RunSpec
from ivid.stage import Stage
from ivid.train import phases
from ivid.train.rngs import stream
from ivid.train.run import noised_as
from ivid.video import lowres as lowres_video

LEVELS = (0.25, 0.5, 0.75)  # diffusion times u of the noised rows
COLUMNS = 8


def stage_sheet(run: RunSpec, *, phase: str, split: Split, count: int) -> np.ndarray:
  """Shows for `count` examples the caption, the target, z_t at a few levels, and the conditioning clip at the level used in sampling.

  Args:
    phase: name in train.phases; empty: the last phase.
  """
  train = phases.named(phases.resolve(run.train), phase).train
  spec = noised_as(run.cascade.stage(run.stage), train)
  train = dataclasses.replace(train, batch_size=count, accumulation=1)
  batch = next(make_pipeline(data=run.data.in_process(), train=train, stage=spec, split=split))
  x = jnp.asarray(from_uint8(batch[batches.VIDEO]))
  keys = example_keys(stream(train.seed, "inspect"), batch[batches.INDEX])
  eps = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
  stage = Stage(spec)
  shown = [("target", x)]
  for u in LEVELS:
    logsnr = jnp.full((count,), stage.schedule(jnp.float32(u)))
    shown.append((f"z_t, u = {u:g}, logsnr = {float(logsnr[0]):.2g}", process.q_sample(x=x, eps=eps, logsnr=logsnr)))
  if spec.lowres is not None:
    shown.insert(1, (f"conditioning, SNR {spec.lowres.aug_snr:g}", _conditioning(stage, x, keys)))
  clips, titles = [], []
  for i in range(count):
    said = batch[CAPTIONS][i]
    kind = f"fps {batch[batches.FPS][i]:g}" if batch[batches.IS_VIDEO][i] else f"{len(said)} images: " + " | ".join(said[1:3])
    for name, clip in shown:
      clips.append(to_uint8(np.asarray(clip[i])))
      titles.append(f"{said[0]} ({kind})\n{name}" if name == "target" else name)
  scale = max(1, 160 // x.shape[3])
  header = f"{run.cascade.name}:{spec.name}, {spec.output}, {split.value}"
  return contact_sheet(clips, captions=titles, columns=COLUMNS, scale=scale, header=header)


def _conditioning(stage: Stage, x: jax.Array, keys: jax.Array) -> jax.Array:
  """The low-resolution clip made from the real one [B, T, H, W, 3], noised as in sampling, and enlarged."""
  lowres = stage.spec.lowres
  small = lowres_video.shrink(x, lowres, stage.spec.output)  # pyright: ignore[reportArgumentType]  only stages with a low-resolution clip come here
  noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), small.shape[1:]))(keys)
  logsnr = jnp.full((len(x),), augment.logsnr_from_snr(lowres.aug_snr))
  _, T, H, W, _ = x.shape
  return stage.augmented(small, frames=T, height=H, width=W, logsnr=logsnr, noise=noise)[..., :3]
