"""A small cascade for your own clips, on one GPU: a base and two super-resolution stages of the geometry below.

  ivid data prepare --input=my_clips --out=data
  ivid train --config=own_data:base --workdir=runs/own
  ivid sample --cascade=runs/own --prompt="what the clip shows"

Copy this file and pass its path as --config to change it. Stages are trained alone, in any order.
"""

import ml_collections

FRAMES, HEIGHT, WIDTH, FPS = 16, 40, 64, 8.0  # of the base: 2 s; sides are multiples of 8
TIMES, LARGER = 2, 4  # what tsr1 makes of the rate, and ssr1 of the sides
CHANNELS = (64, 128, 256)  # from fine to coarse; twice as many take four times the time
TEXT = dict(text_encoder="nano")  # reads bytes, and knows few words; docs/text_encoders.md has better ones


def get_config(stage: str = "base") -> ml_collections.ConfigDict:
  """The cascade, and how to train `stage` of it."""
  stages = dict(
    base=_stage("base", 1, 1, joint="joint"),
    tsr1=_stage("tsr", TIMES, 1, residual_std=0.2),
    ssr1=_stage("ssr", TIMES, LARGER, patch=4, residual_std=0.15),
  )
  data = dict(name="tfds:clips", dir="data", short="hold", workers=2, **TEXT)
  return ml_collections.ConfigDict(
    dict(stage=stage, cascade=dict(name="own_data", order=tuple(stages), stages=stages), train=_train(stage), data=data)
  )


def _stage(task: str, times: int, larger: int, *, joint: str = "convolution", patch: int = 2, residual_std: float = 0.0) -> dict:
  low = dict(time=joint, spatial_attention=joint != "joint", cross_attention=True)
  levels = [dict(channels=CHANNELS[0], time="convolution"), dict(channels=CHANNELS[1], **low), dict(channels=CHANNELS[2], **low, blocks=2)]
  base = task == "base"
  return dict(
    task=task,
    output=dict(frames=FRAMES * times, height=HEIGHT * larger, width=WIDTH * larger, fps=FPS * times),
    unet=dict(levels=levels, patch=patch, dtype="bfloat16", residual_std=residual_std, scale_input=not base),
    diffusion=dict(prediction="v", logsnr_shift=-2.0) if base else dict(prediction="x", loss_weight="x", sigma_floor=0.15),
    lowres=None if base else dict(time_fill="linear", aug_logsnr_min=-1.0, aug_logsnr_max=6.0, aug_snr=20.0),
    sampling=dict(steps=64 if base else 8, guidance=dict(weight=4.0 if base else 0.0)),
  )


def _train(stage: str) -> dict:
  batch = dict(base=16, tsr1=8).get(stage, 4)
  phases = (
    dict(name="images", steps=20_000, frames=1, image_fraction=0.0, batch_size=8 * batch),  # what is to be seen, then how it moves
    dict(name="clips", steps=50_000, batch_size=batch),
  )
  return dict(steps=None, phases=phases, image_fraction=0.25, optimizer=dict(kind="muon", learning_rate=1e-3))
