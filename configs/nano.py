"""Nano: the paper's cascade at the paper's geometry with a thousandth of its parameters, on moving_shapes.

  ivid train --config=nano:base --workdir=runs/base

Sized for two CPU cores (hours) or one GPU (minutes). See README.md for what each stage reached.
`nano:base_patch4` is the base whose weights ship.
"""

import ml_collections

STAGES = ("base", "tsr1", "ssr1", "ssr2", "tsr2", "tsr3", "ssr3")
PATCH4 = "base_patch4"


def get_config(stage: str = "base") -> ml_collections.ConfigDict:
  """The cascade, and how to train `stage` of it."""
  if stage not in (*STAGES, PATCH4):
    from ivid.spec.errors import nearest  # configs stay importable without the package's heavier parts

    raise ValueError(f"unknown stage {stage!r}: {nearest(stage, (*STAGES, PATCH4))}")
  stages = _stages()
  if stage == PATCH4:
    stages["base"] |= _patch4()
  train = _train()
  train.update(_train_overrides()[stage])
  distill = _distill()
  distill.update(_distill_overrides().get(stage.removesuffix("_patch4"), {}))
  return ml_collections.ConfigDict(
    dict(
      stage="base" if stage == PATCH4 else stage,
      cascade=dict(name="nano", text=_text(), order=STAGES, stages=stages),
      train=train,
      distill=distill,
      mesh=dict(data=-1, fsdp=1, tensor=1),
      data=_data(),
    ),
    convert_dict=True,
  )


def _data() -> dict:
  return dict(
    name="moving_shapes",
    dir="",
    paraphrase=0.3,
    two_objects=0.3,
    caption_pool=20_000,  # 15,115 different captions: minutes of one core, once, where embedding as one goes costs as much as training
    cache="",
    text_encoder="nano",
    embeddings="",
    draw="host",
    workers=0,
    threads=1,
    prefetch=2,
  )


def _text() -> dict:
  return dict(name="nano", tokenizer="bytes", vocab_size=384, dim=256, layers=5, heads=8, head_dim=32, mlp_dim=832, max_tokens=128)


def _clip(frames: int, height: int, width: int, fps: float) -> dict:
  return dict(frames=frames, height=height, width=width, fps=fps)


CLIPS = dict(
  base=_clip(16, 24, 40, 3.0),
  tsr1=_clip(32, 24, 40, 6.0),
  ssr1=_clip(32, 48, 80, 6.0),
  ssr2=_clip(32, 192, 320, 6.0),
  tsr2=_clip(64, 192, 320, 12.0),
  tsr3=_clip(128, 192, 320, 24.0),
  ssr3=_clip(128, 768, 1280, 24.0),
)


def _level(channels: int, *, time: str, attention: bool, blocks: int = 1) -> dict:
  return dict(channels=channels, blocks=blocks, time=time, spatial_attention=attention, cross_attention=attention, remat=False)


def _unet(levels: list[dict], *, patch: int, residual_std: float, embed_dim: int = 128, head_dim: int = 32, norm: str = "group") -> dict:
  return dict(
    levels=levels,
    patch=patch,
    io_kernel=1,
    scale_input=residual_std > 0,
    residual_std=residual_std,
    embed_dim=embed_dim,
    head_dim=head_dim,
    norm=norm,
    norm_groups=8,
    text_dim=256,
    dtype="float32",
    param_dtype="float32",
  )


def _base() -> dict:
  """Thin convolutions where there are many positions, blocks and attention where there are few; motion is mixed where it is coarse.

  Every pixel is a position: from the same images in the same time its loss was a third below that of patches of 2 without the first level.
  """
  pixels, fine, middle, coarse = (
    _level(channels, time="joint", attention=False) | dict(cross_attention=True) for channels in (24, 64, 128, 160)
  )
  pixels |= dict(time="none", cross_attention=False)
  fine |= dict(time="convolution", cross_attention=False)
  coarse |= dict(blocks=2, unroll=2)  # in line, as a loop over two blocks costs a CPU a fifth
  levels = [pixels, fine, middle, coarse]
  return _unet(levels, patch=1, residual_std=0.0) | dict(io_kernel=3, text_width=128, text_patch=4, given=True)


def _base_diffusion() -> dict:
  # Sixteen frames of one scene average more noise away than one does: 2 log(1 / 16) / 2 = -2.8 would make up for all of it.
  return dict(prediction="v", loss_weight="v", logsnr_min=-20.0, logsnr_max=20.0, logsnr_shift=-2.0, text_drop=0.1, given_share=0.3)


def _patch4() -> dict:
  """The base of the shipped weights."""
  level = dict(time="attention", attention=True)
  unet = _unet([_level(128, **level), _level(224, **level)], patch=4, residual_std=0.0)
  return dict(unet=unet, diffusion=_diffusion("v"), sampling=_sampling(32, 2.0))


def _diffusion(loss_weight: str) -> dict:
  # Patched stages output x: clean pixels pass a narrow network, the noise values of a patch do not.
  return dict(
    prediction="x",
    loss_weight=loss_weight,
    logsnr_min=-20.0,
    logsnr_max=20.0,
    logsnr_shift=0.0,
    sigma_floor=0.15,
    text_drop=0.1,
  )


def _lowres(stage: str) -> dict:
  return dict(input=CLIPS[stage], time_fill="linear", shrink="box", aug_logsnr_min=4.0, aug_logsnr_max=10.0, aug_snr=20_000.0)


def _sampling(steps: int, weight: float) -> dict:
  return dict(
    sampler="ddim",
    steps=steps,
    gamma=0.3,
    guidance=dict(weight=weight, low=None, constant_part=0.2),
    threshold="static",
    percentile=99.5,
  )


def _stages() -> dict:
  conv = dict(time="convolution", attention=False)
  full = dict(time="convolution", attention=True)
  unets = dict(
    base=_base(),
    tsr1=_unet([_level(88, **conv), _level(112, **full)], patch=4, residual_std=0.2, embed_dim=96, head_dim=16),
    ssr1=_unet([_level(64, **conv), _level(112, **full)], patch=4, residual_std=0.15, embed_dim=64, head_dim=16),
    ssr2=_unet([_level(80, **conv), _level(88, **full)], patch=8, residual_std=0.1, embed_dim=64, head_dim=8),
    tsr2=_unet([_level(64, **conv), _level(80, **conv)], patch=8, residual_std=0.15, embed_dim=64, norm="rms"),
    tsr3=_unet([_level(56, **conv), _level(72, **conv)], patch=8, residual_std=0.1, embed_dim=64, norm="rms"),
    ssr3=_unet([_level(40, **conv), _level(48, **conv)], patch=8, residual_std=0.08, embed_dim=64, norm="rms"),
  )
  stages = {}
  for before, name in zip((None, *STAGES), STAGES, strict=False):
    task = "base" if before is None else name[:3]
    stages[name] = dict(
      task=task,
      output=CLIPS[name],
      unet=unets[name],
      # The others have to read what is there from their input, also where z_t is all noise: no level weighs more than that one.
      diffusion=_base_diffusion() if before is None else _diffusion("x"),
      lowres=None if before is None else _lowres(before),
      # Given its input, the world has little left to choose: one step, the mean, was nearest to ground truth and flickered least.
      sampling=_sampling(32 if before is None else 1, 1.0 if before is None else 0.0),
    )
  return stages


def _train() -> dict:
  return dict(
    seed=0,
    steps=20_000,
    batch_size=16,
    accumulation=1,
    frames=0,
    image_fraction=0.0,
    crop=dict(frames=0, height=0, width=0),
    optimizer=dict(
      kind="muon",
      learning_rate=2e-3,
      warmup_steps=100,
      final_fraction=0.05,
      b1=0.9,
      b2=0.99,
      weight_decay=0.0,
      clip_norm=1.0,
    ),
    ema_decay=0.999,
    init_from="",
    log_every=50,
    eval_every=1000,
    eval_batches=4,
    sample_every=1000,
    num_samples=8,
    sample_steps=16,
    adherence_every=0,
    adherence_prompts=16,
    checkpoint=dict(every=500, max_to_keep=2, keep_period=0),
  )


def _train_overrides() -> dict:
  return {
    # Pictures first, then how they move: one core learns from 36 pictures a second, 8 clips of four frames, or 2 whole ones.
    "base": dict(steps=None, batch_size=8, image_fraction=0.25, adherence_every=1000, phases=_base_phases()),
    PATCH4: dict(),
    **_lesser_overrides(),
  }


def _base_phases() -> tuple[dict, ...]:
  return (
    dict(name="images", steps=10_000, frames=1, image_fraction=0.0, batch_size=32, logsnr_shift=0.0),
    dict(name="clips4", steps=5_000, frames=4, batch_size=16, learning_rate=1e-3, logsnr_shift=-1.0),
    dict(name="clips", steps=10_000, frames=0, batch_size=8, learning_rate=1e-3),
  )


def _lesser_overrides() -> dict:
  return dict(
    tsr1=dict(batch_size=8),
    ssr1=dict(batch_size=4),
    ssr2=dict(batch_size=4),
    tsr2=dict(batch_size=4, crop=dict(frames=16, height=64, width=64)),
    tsr3=dict(batch_size=4, crop=dict(frames=16, height=64, width=64)),
    ssr3=dict(batch_size=4, crop=dict(frames=8, height=192, width=192)),
  )


def _distill() -> dict:
  return dict(
    teacher_steps=32,
    final_steps=1,
    stochastic=(),
    w_min=0.0,
    w_max=0.0,  # sampled without guidance
    loss_weight="truncated_snr",
    guidance_updates=1000,
    updates=200,
    last_updates=400,
    learning_rate=5e-4,
    num_samples=2,
    adherence_prompts=0,
  )


def _distill_overrides() -> dict:
  return dict(
    base=dict(stochastic=(8,), w_max=4.0, updates=500, last_updates=1000, num_samples=8, adherence_prompts=25),
    tsr1=dict(num_samples=4),
    ssr1=dict(num_samples=4),
  )
