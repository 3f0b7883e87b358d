"""Doubling: the paper's other geometry, eleven stages that double space and time in turn, at nano's scale, on moving_shapes.

  ivid train --config=doubling:base --workdir=runs/doubling_base

A wide picture is squeezed into a square by the base and resized back by ssr5, the only stage that changes the aspect. Up to tsr4 every
stage learns squares that show a world of 5:3; the last pair is fully convolutional. Sized for two CPU cores or one GPU.
"""

import ml_collections

STAGES = ("base", "ssr1", "tsr1", "ssr2", "tsr2", "ssr3", "tsr3", "ssr4", "tsr4", "ssr5", "tsr5")


def get_config(stage: str = "base") -> ml_collections.ConfigDict:
  """The cascade, and how to train `stage` of it."""
  if stage not in STAGES:
    from ivid.spec.errors import nearest  # configs stay importable without the package's heavier parts

    raise ValueError(f"unknown stage {stage!r}: {nearest(stage, STAGES)}")
  train = _train()
  train.update(_train_overrides()[stage])
  return ml_collections.ConfigDict(
    dict(
      stage=stage,
      cascade=dict(name="doubling", text=_text(), order=STAGES, stages=_stages()),
      train=train,
      distill=_distill(stage),
      mesh=dict(data=-1, fsdp=1, tensor=1),
      data=dict(
        name="moving_shapes",
        dir="",
        aspect=5 / 3,
        paraphrase=0.3,
        two_objects=0.3,
        text_encoder="nano",
        embeddings="",
        draw="host",
        workers=0,
        threads=1,
        prefetch=2,
      ),
    ),
    convert_dict=True,
  )


def _text() -> dict:
  return dict(name="nano", tokenizer="bytes", vocab_size=384, dim=256, layers=5, heads=8, head_dim=32, mlp_dim=832, max_tokens=128)


def _clip(frames: int, height: int, width: int) -> dict:
  return dict(frames=frames, height=height, width=width, fps=24.0 * frames / 128)


CLIPS = dict(
  base=_clip(4, 64, 64),
  ssr1=_clip(4, 128, 128),
  tsr1=_clip(8, 128, 128),
  ssr2=_clip(8, 256, 256),
  tsr2=_clip(16, 256, 256),
  ssr3=_clip(16, 512, 512),
  tsr3=_clip(32, 512, 512),
  ssr4=_clip(32, 1024, 1024),
  tsr4=_clip(64, 1024, 1024),
  ssr5=_clip(64, 768, 1280),
  tsr5=_clip(128, 768, 1280),
)


def _unet(
  channels: tuple[int, int], *, patch: int, time: str, attention: str, embed_dim: int, residual_std: float = 0.1, norm: str = "group"
) -> dict:
  """Two levels; `attention` is "all" (both levels), "low" (over space at the lower one), "text" (to the text alone there) or "none"."""
  levels = []
  for i, width in enumerate(channels):
    text = attention == "all" or (attention in ("low", "text") and i == 1)
    space = text and attention != "text"
    levels.append(dict(channels=width, blocks=1, time=time, spatial_attention=space, cross_attention=text, remat=False))
  return dict(
    levels=levels,
    patch=patch,
    io_kernel=1,
    scale_input=residual_std > 0,
    residual_std=residual_std,
    embed_dim=embed_dim,
    head_dim=16,
    norm=norm,
    norm_groups=8,
    text_dim=256,
    dtype="float32",
    param_dtype="float32",
  )


def _stages() -> dict:
  conv = dict(time="convolution")
  unets = dict(
    base=_unet((128, 224), patch=4, time="attention", attention="all", embed_dim=128, residual_std=0.0),
    ssr1=_unet((80, 128), patch=4, attention="low", embed_dim=64, residual_std=0.15, **conv),
    tsr1=_unet((80, 112), patch=4, attention="low", embed_dim=64, residual_std=0.2, **conv),
    ssr2=_unet((64, 96), patch=8, attention="low", embed_dim=64, **conv),
    tsr2=_unet((64, 96), patch=8, attention="low", embed_dim=64, **conv),
    ssr3=_unet((64, 80), patch=8, attention="low", embed_dim=64, **conv),
    tsr3=_unet((64, 80), patch=8, attention="text", embed_dim=64, **conv),
    ssr4=_unet((48, 64), patch=8, attention="text", embed_dim=64, **conv),
    tsr4=_unet((48, 64), patch=8, attention="text", embed_dim=64, **conv),
    ssr5=_unet((40, 48), patch=8, attention="none", embed_dim=64, norm="rms", **conv),
    tsr5=_unet((40, 48), patch=8, attention="none", embed_dim=64, norm="rms", **conv),
  )
  stages = {}
  for before, name in zip((None, *STAGES), STAGES, strict=False):
    stages[name] = dict(
      task="base" if before is None else name[:3],
      output=CLIPS[name],
      unet=unets[name],
      # The others have to read what is there from their input, also where z_t is all noise: no level weighs more than that one.
      diffusion=_diffusion("v" if before is None else "x"),
      lowres=None if before is None else _lowres(before, shrink="triangle" if name == "ssr5" else "box"),
      sampling=_sampling(32 if before is None else 2, 2.0 if before is None else 0.0),
    )
  return stages


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


def _lowres(stage: str, *, shrink: str) -> dict:
  return dict(input=CLIPS[stage], time_fill="linear", shrink=shrink, aug_logsnr_min=4.0, aug_logsnr_max=10.0, aug_snr=20_000.0)


def _sampling(steps: int, weight: float) -> dict:
  return dict(
    sampler="ddim",
    steps=steps,
    gamma=0.3,
    guidance=dict(weight=weight, low=None, constant_part=0.2),
    threshold="static",
    percentile=99.5,
  )


def _train() -> dict:
  return dict(
    seed=0,
    steps=20_000,
    batch_size=8,
    accumulation=1,
    frames=0,
    image_fraction=0.0,
    crop=dict(frames=0, height=0, width=0),
    optimizer=dict(
      kind="muon",
      learning_rate=3e-3,
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
    sample_steps=8,
    adherence_every=0,
    adherence_prompts=16,
    checkpoint=dict(every=500, max_to_keep=2, keep_period=0),
  )


def _train_overrides() -> dict:
  # Crops are in pixels of the stage's output. Stages that attend over space learn whole pictures, fewer frames of them.
  return dict(
    base=dict(batch_size=16),
    ssr1=dict(),
    tsr1=dict(),
    ssr2=dict(batch_size=4),
    tsr2=dict(batch_size=4, crop=dict(frames=4, height=0, width=0)),
    ssr3=dict(batch_size=4, crop=dict(frames=4, height=0, width=0)),
    tsr3=dict(batch_size=4, crop=dict(frames=8, height=128, width=128)),
    ssr4=dict(batch_size=4, crop=dict(frames=8, height=256, width=256)),
    tsr4=dict(batch_size=4, crop=dict(frames=8, height=256, width=256)),
    ssr5=dict(batch_size=4, crop=dict(frames=8, height=192, width=320)),
    tsr5=dict(batch_size=4, crop=dict(frames=8, height=192, width=192)),
  )


def _distill(stage: str) -> dict:
  return dict(
    teacher_steps=32,
    final_steps=8,
    stochastic=(),
    w_min=0.0,
    w_max=4.0 if stage == "base" else 0.0,  # the others are sampled without guidance
    loss_weight="truncated_snr",
    guidance_updates=1000,
    updates=200,
    last_updates=400,
    learning_rate=5e-4,
    num_samples=2,
    adherence_prompts=0,
  )
