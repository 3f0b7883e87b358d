"""Doubling: the paper's other geometry, eleven stages that double space and time in turn, at nano's scale, on moving_shapes.

  ivid train --config=doubling:base --workdir=runs/doubling_base

A wide picture is squeezed into a square by the base and resized back by ssr5, the only stage that changes the aspect. Up to tsr4 every
stage learns squares that show a world of 5:3; the last pair is fully convolutional. Sized for two CPU cores or one GPU.
"""

import ml_collections

# Frames, height and width of the stage's output. Stages that attend over space learn whole pictures, fewer frames of them.
CROPS = dict(tsr2=(4, 0, 0), ssr3=(4, 0, 0), tsr3=(8, 128, 128), ssr4=(8, 256, 256), tsr4=(8, 256, 256))
CROPS |= dict(ssr5=(8, 192, 320), tsr5=(8, 192, 192))


def get_config(stage: str = "base") -> ml_collections.ConfigDict:
  """The cascade, and how to train and distil `stage` of it."""
  stages = _stages()
  cascade = dict(name="doubling", order=tuple(stages), stages=stages)
  train = dict(steps=20_000, optimizer=dict(kind="muon", learning_rate=3e-3), sample_every=1000, sample_steps=8)
  train |= dict(batch_size=dict(base=16, ssr1=8, tsr1=8).get(stage, 4), crop=_sizes(CROPS.get(stage, ())))
  distill = dict(teacher_steps=32, guidance_updates=1000, updates=200, last_updates=400, learning_rate=5e-4, num_samples=2)
  if stage == "base":  # the others are sampled without guidance
    distill |= dict(w_max=4.0)
  return ml_collections.ConfigDict(dict(stage=stage, cascade=cascade, train=train, distill=distill, data=dict(aspect=5 / 3)))


def _stages() -> dict:
  return dict(
    base=_base(),
    ssr1=_stage("ssr", (4, 128, 128), (80, 128), "low", patch=4, residual_std=0.15),
    tsr1=_stage("tsr", (8, 128, 128), (80, 112), "low", patch=4, residual_std=0.2),
    ssr2=_stage("ssr", (8, 256, 256), (64, 96), "low"),
    tsr2=_stage("tsr", (16, 256, 256), (64, 96), "low"),
    ssr3=_stage("ssr", (16, 512, 512), (64, 80), "low"),
    tsr3=_stage("tsr", (32, 512, 512), (64, 80), "text"),
    ssr4=_stage("ssr", (32, 1024, 1024), (48, 64), "text"),
    tsr4=_stage("tsr", (64, 1024, 1024), (48, 64), "text"),
    ssr5=_stage("ssr", (64, 768, 1280), (40, 48), "both", norm="rms", head_dim=8, shrink="triangle"),
    tsr5=_stage("tsr", (128, 768, 1280), (40, 48), "both", norm="rms", head_dim=8),
  )


def _sizes(sizes: tuple) -> dict:
  return dict(zip(("frames", "height", "width"), sizes, strict=False))


def _base() -> dict:
  level = dict(time="attention", spatial_attention=True, cross_attention=True)
  return dict(
    task="base",
    output=_sizes((4, 64, 64)) | dict(fps=0.75),
    unet=dict(levels=[dict(channels=128, **level), dict(channels=224, **level)], patch=4, io_kernel=1, head_dim=16),
    diffusion=dict(prediction="x", sigma_floor=0.15),
    sampling=dict(guidance=dict(weight=2.0)),
  )


def _stage(task: str, clip: tuple, channels: tuple, attention: str, *, shrink: str = "box", residual_std: float = 0.1, **unet) -> dict:
  """Two levels, of which the lower attends over space and to the text ("low") or to the text alone ("text"); both to that with "both"."""
  fine, coarse = (dict(channels=width, time="convolution") for width in channels)
  fine |= dict(cross_attention=attention == "both")
  coarse |= dict(spatial_attention=attention == "low", cross_attention=True)
  common = dict(patch=8, io_kernel=1, embed_dim=64, head_dim=16, scale_input=True, residual_std=residual_std)
  return dict(
    task=task,
    output=_sizes(clip) | dict(fps=24.0 * clip[0] / 128),
    unet=dict(levels=[fine, coarse], **common | unet),
    # Patched stages output x: clean pixels pass a narrow network, the noise values of a patch do not. These have to read what is there
    # from their input, also where z_t is all noise: no level weighs more than that one.
    diffusion=dict(prediction="x", loss_weight="x", sigma_floor=0.15),
    lowres=dict(time_fill="linear", shrink=shrink, aug_logsnr_min=4.0, aug_snr=20_000.0),
    sampling=dict(steps=2),
  )
