"""Nano: the paper's cascade at the paper's geometry with a thousandth of its parameters, on moving_shapes.

  ivid train --config=nano:base --workdir=runs/base

Sized for two CPU cores (hours) or one GPU (minutes). See docs/nano.md for what each stage reached.
"""

import ml_collections

# Of pictures and of clips: 25 minutes of one core each, tsr1 an hour. From a picture a temporal stage learns only how to take the
# augmentation's noise off; what it is for is in clips.
UPDATES = dict(tsr1=(400, 3650), ssr1=(1200, 800), ssr2=(1200, 400), tsr2=(400, 5500), tsr3=(400, 4300), ssr3=(1200, 1800))
# Levels of noise in the input (section 2.5). Of the base's own clips SNR 400 takes off what is left of the base's noise; at 20, which more
# training would be needed for, its own stays visible. Half of the frames that a temporal stage makes are those of its input: less there, or
# what the noise costs exceeds what is won over linear interpolation.
AUGMENTATION = dict(
  ssr=dict(aug_logsnr_min=-1.0, aug_logsnr_max=6.0, aug_snr=400.0),
  tsr=dict(aug_logsnr_min=6.0, aug_logsnr_max=12.0, aug_snr=150_000.0),
)
PICTURES = dict(ssr2=8, ssr3=8)  # a batch of single pictures, where they are large
CROPS = dict(tsr2=(16, 64, 64), tsr3=(16, 64, 64), ssr3=(8, 192, 192))  # frames, height and width of the stage's output


def get_config(stage: str = "base") -> ml_collections.ConfigDict:
  """The cascade, and how to train and distil `stage` of it."""
  stages = _stages()
  cascade = dict(name="nano", order=tuple(stages), stages=stages)
  # 15,115 different captions: minutes of one core, once, where embedding as one goes costs as much as training.
  data = dict(caption_pool=20_000)
  return ml_collections.ConfigDict(dict(stage=stage, cascade=cascade, train=_train(stage), distill=_distill(stage), data=data))


def _stages() -> dict:
  """Thin levels where there are many positions, as in the base."""
  low, plain = dict(looks=True), dict(looks=False, norm="rms")
  return dict(
    base=_base(),
    tsr1=_stage("tsr", (32, 24, 40, 6.0), (64, 96, 80), patch=2, io_kernel=3, residual_std=0.2, embed_dim=96, **low),
    ssr1=_stage("ssr", (32, 48, 80, 6.0), (24, 56, 112), patch=2, residual_std=0.15, **low),
    ssr2=_stage("ssr", (32, 192, 320, 6.0), (24, 48, 112), patch=4, residual_std=0.1, **low),
    tsr2=_stage("tsr", (64, 192, 320, 12.0), (24, 48, 80), patch=4, residual_std=0.15, **plain),
    tsr3=_stage("tsr", (128, 192, 320, 24.0), (24, 48, 64), patch=4, residual_std=0.1, **plain),
    ssr3=_stage("ssr", (128, 768, 1280, 24.0), (40, 40), patch=8, residual_std=0.08, head_dim=8, text_width=32, **plain),
  )


def _clip(*sizes: float) -> dict:
  return dict(zip(("frames", "height", "width", "fps"), sizes, strict=False))


def _base() -> dict:
  """Thin convolutions where there are many positions, blocks and attention where there are few; motion is mixed where it is coarse.

  Patches of 2: every pixel a position, with a level of 24 channels before these, had a lower loss after as many updates and drew fewer
  shapes right in as much time, as it saw half the images.
  """
  levels = [
    dict(channels=64, time="convolution"),
    dict(channels=128, time="joint", cross_attention=True),
    dict(channels=160, time="joint", cross_attention=True, blocks=2, unroll=2),  # in line, as a loop over two costs a CPU a fifth
  ]
  return dict(
    task="base",
    output=_clip(16, 24, 40, 3.0),
    unet=dict(levels=levels, patch=2, io_kernel=3, text_width=128, text_patch=4, given=True),
    # Sixteen frames of one scene average more noise away than one does: 2 log(1 / 16) / 2 = -2.8 would make up for all of it.
    diffusion=dict(logsnr_shift=-2.0),
    sampling=dict(guidance=dict(weight=1.0)),
  )


def _stage(task: str, clip: tuple, channels: tuple, *, looks: bool, **unet) -> dict:
  """Levels of these channels; the coarsest reads the text, and with `looks` looks over the frame."""
  levels = [dict(channels=width, time="convolution") for width in channels]
  levels[-1] |= dict(spatial_attention=looks, cross_attention=True)
  common = dict(patch=1, io_kernel=1, embed_dim=64, head_dim=16, scale_input=True, text_width=64, text_patch=4)
  return dict(
    task=task,
    output=_clip(*clip),
    unet=dict(levels=levels, **common | unet),
    # They output x, about the clip that they read (unet.residual_std): no noise level weighs more than the one where z_t says nothing.
    diffusion=dict(prediction="x", loss_weight="x", sigma_floor=0.15),
    lowres=dict(time_fill="linear", **AUGMENTATION[task]),
    sampling=dict(steps=1),  # nearer to the truth than 2 or 4, and still pixels flicker least: nothing is left to be drawn at random
  )


def _train(stage: str) -> dict:
  train = dict(optimizer=dict(kind="muon", learning_rate=2e-3), sample_every=1000)
  if stage != "base":
    return train | _train_super_resolution(stage)
  # Pictures first, then how they move: one core learns from about 45 pictures per second, 9 clips of four frames, or 2 whole ones.
  phases = (
    # Outlines are decided between logsnr -4 and 1: 77% of these levels lie there, 57% of the schedule's.
    dict(name="images", steps=12_000, frames=1, image_fraction=0.0, batch_size=64, logsnr_shift=-1.0, logsnr_std=2.0),
    dict(name="clips4", steps=5_000, frames=4, batch_size=16, learning_rate=1e-3, logsnr_shift=-1.0),
    dict(name="clips", steps=10_000, frames=0, batch_size=8, learning_rate=1e-3),
  )
  return train | dict(batch_size=8, steps=None, image_fraction=0.25, adherence_every=1000, phases=phases)


def _train_super_resolution(stage: str) -> dict:
  """Pictures first: what is sharp is learnt from them, at a fraction of a clip's cost. Then runs of neighbouring frames.

  A stage mixes few frames, so that short runs teach it what whole clips would, and show more scenes in the same time.
  """
  crop = CROPS.get(stage, (0, 0, 0))
  stills, runs = UPDATES.get(stage, (400, 2000))
  phases = (
    dict(name="images", steps=stills, frames=1, image_fraction=0.0, batch_size=PICTURES.get(stage, 32)),
    # A single step starts from noise alone: temporal stages, whose residual is small, learn more of such levels.
    dict(name="clips", steps=runs, frames=crop[0] or 8, neighbours=True, logsnr_shift=-2.0 if stage.startswith("tsr") else None),
  )
  averages = dict(ema_widths=(0.05, 0.1), ema_snapshot_every=1000)
  batch = dict(tsr1=16, ssr1=8).get(stage, 4)  # of clips, and of all that a halving sees
  optimizer = dict(kind="muon", learning_rate=2e-3, decay="wsd", decay_share=0.3)
  common = dict(batch_size=batch, steps=None, image_fraction=0.125, crop=_clip(*crop))
  return dict(phases=phases, optimizer=optimizer, **common, **averages)


def _distill(stage: str) -> dict:
  distill = dict(teacher_steps=32, final_steps=1, updates=200, last_updates=400, learning_rate=5e-4)
  if stage == "base":  # the others are sampled without guidance
    phases = (
      dict(name="images", steps=6250, frames=1, batch_size=32),
      dict(name="clips", steps=500, frames=0, batch_size=32, accumulation=4),
    )
    # Frozen, the teacher cannot be damaged, whatever the rate: in one tenth of the updates less of the guidance is missed.
    distill |= dict(w_max=4.0, guidance_phases=phases, second_way_up=True, guidance_learning_rate=2e-3)
    return distill | dict(stochastic=(8,), updates=500, last_updates=1000, num_samples=8, adherence_prompts=25)
  return distill if stage in ("tsr1", "ssr1") else distill | dict(num_samples=2)
