"""Tiny: three stages of a few thousand parameters, seconds to train and run; for tests.

ivid train --config=tiny:base --workdir=runs/tiny
"""

import ml_collections

CLIPS = dict(
  base=dict(frames=4, height=12, width=20, fps=0.75),
  tsr1=dict(frames=8, height=12, width=20, fps=1.5),
  ssr1=dict(frames=8, height=24, width=40, fps=1.5),
)


def get_config(stage: str = "base") -> ml_collections.ConfigDict:
  """The cascade, and how to train `stage` of it."""
  # Empty sections are the defaults, for configs of tests to fill in.
  cascade = dict(name="tiny", text={}, order=tuple(CLIPS), stages={name: _stage(name) for name in CLIPS})
  train = dict(steps=20, batch_size=8, optimizer=dict(warmup_steps=5), ema_decay=0.99, checkpoint=dict(every=10))
  train |= dict(log_every=5, eval_every=10, eval_batches=1, sample_every=0, num_samples=2, sample_steps=2, adherence_prompts=1)
  distill = dict(teacher_steps=8, final_steps=2, guidance_updates=4, updates=4, last_updates=4, learning_rate=1e-3, num_samples=2)
  if stage == "base":
    train |= dict(image_fraction=0.25)
    distill |= dict(w_max=4.0)
  return ml_collections.ConfigDict(dict(stage=stage, cascade=cascade, train=train, distill=distill, data={}))


def _stage(name: str) -> dict:
  time = "attention" if name == "base" else "convolution"
  levels = [dict(channels=8, time=time), dict(channels=16, time=time, spatial_attention=True, cross_attention=True)]
  return dict(
    task=name.rstrip("1"),
    output=CLIPS[name],
    unet=dict(levels=levels, patch=4 if name == "ssr1" else 2, embed_dim=16, head_dim=8, norm_groups=4),
    diffusion=dict(prediction="x"),
    sampling=dict(steps=2),
  )
