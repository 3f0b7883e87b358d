"""Imagen Video at full size: the seven stages of the paper, 11.68B parameters, for TPU pods (2210.02303, figure 6).

  ivid data import-t5 --from=T5_XXL_CHECKPOINT --tokenizer=SENTENCEPIECE_MODEL --model=t5_v1_1_xxl --out=T5_XXL_FOLDER
  ivid data embed --config=imagen_video:base --config.data.name=tfds:NAME --config.data.text_encoder=T5_XXL_FOLDER --out=EMBEDDINGS
  ivid train --config=imagen_video:base --workdir=runs/base --config.data.name=tfds:NAME --config.data.embeddings=EMBEDDINGS

`launch/` starts this on every host of a slice; `ivid compile --config=imagen_video:base --topology=v5p:4x4x8` says beforehand, without one,
what a chip holds and how long a step takes. With the bucket as a folder on every host, launch/README.md shows the whole way. Batches are
for the slices of SLICES; there the compiler estimates, before collectives:

  stage slice       batch                a chip    step   MFU
  base  v5p:4x4x8   1024 of 16x24x40    46.5 GB   1.32 s  0.57
  tsr1  v5p:4x4x4    256 of 32x24x40    19.7 GB   0.70 s  0.46
  ssr1  v5p:4x4x4    256 of 32x48x80    29.4 GB   0.78 s  0.44
  ssr2  v5p:4x4x4     64 of 32x192x320  32.8 GB   0.67 s  0.54
  tsr2  v5p:4x4x4    256 of 16x64x64     8.7 GB   0.14 s  0.46
  tsr3  v5p:4x4x4    256 of 16x64x64     6.6 GB   0.11 s  0.48
  ssr3  v5p:4x4x4    256 of 8x256x256    9.2 GB   0.16 s  0.45
"""

import ml_collections

STAGES = ("base", "tsr1", "ssr1", "ssr2", "tsr2", "tsr3", "ssr3")

# The slice that a stage's batch and mesh are sized for.
SLICES = dict(
  base="v5p:4x4x8",
  tsr1="v5p:4x4x4",
  ssr1="v5p:4x4x4",
  ssr2="v5p:4x4x4",
  tsr2="v5p:4x4x4",
  tsr3="v5p:4x4x4",
  ssr3="v5p:4x4x4",
)


def get_config(stage: str = "base") -> ml_collections.ConfigDict:
  """The cascade, and how to train and distil `stage` of it."""
  if stage not in STAGES:
    from ivid.spec.errors import nearest  # configs stay importable without the package's heavier parts

    raise ValueError(f"unknown stage {stage!r}: {nearest(stage, STAGES)}")
  train = _train()
  train.update(_train_overrides()[stage])
  return ml_collections.ConfigDict(
    dict(
      stage=stage,
      cascade=dict(name="imagen_video", text=_text(), order=STAGES, stages=_stages()),
      train=train,
      distill=_distill(stage),
      mesh=dict(data=-1, fsdp=16, tensor=1, frames=1, height=1),
      data=dict(
        name="moving_shapes",
        dir="",
        aspect=0.0,
        paraphrase=0.3,
        two_objects=0.3,
        text_encoder="t5_xxl",
        embeddings="",
        draw="host",
        workers=0,
        threads=16,
        prefetch=8,
      ),
    ),
    convert_dict=True,
  )


def _text() -> dict:
  """T5 v1.1 XXL (1910.10683, 2002.05202)."""
  sizes = dict(vocab_size=32128, dim=4096, layers=24, heads=64, head_dim=64, mlp_dim=10240)
  return dict(name="t5_v1_1_xxl", tokenizer="t5.model", max_tokens=256, dtype="bfloat16", **sizes)


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

IN_LINE = 3  # blocks of a level, at most


def _levels(
  channels: tuple[int, ...],
  blocks: tuple[int, ...],
  *,
  time: str,
  attend: int = 0,
  residuals: tuple[int, ...] = (),
  saved: tuple[tuple[str, ...], ...] = (),
) -> list[dict]:
  """Levels from the finest to the coarsest; the last `attend` look over the frame and at the text.

  `saved` of a block is kept for the backward pass, by default the results of its convolutions, and all else computed again. A loop over
  blocks writes all that it keeps twice, so that levels of few blocks have them in line; more would take the compiler too long.
  """
  residuals, saved = residuals or (1,) * len(channels), saved or (("conv",),) * len(channels)
  levels = []
  for i, (width, count, depth, kept) in enumerate(zip(channels, blocks, residuals, saved, strict=True)):
    low = i >= len(channels) - attend
    mixing = dict(time=time, spatial_attention=low, cross_attention=low)
    run = dict(remat=True, saved=kept, unroll=count if count <= IN_LINE else 1)
    levels.append(dict(channels=width, blocks=count, residuals=depth, **mixing, **run))
  return levels


def _unet(levels: list[dict], *, patch: int = 1, norm: str = "group", embed_dim: int = 1024) -> dict:
  return dict(
    levels=levels,
    patch=patch,
    io_kernel=3,
    scale_input=False,
    residual_std=0.0,
    embed_dim=embed_dim,
    head_dim=128,
    norm=norm,
    norm_groups=32,
    text_dim=4096,
    text_width=1024 if any(level["cross_attention"] for level in levels) else 0,
    dtype="bfloat16",
    param_dtype="float32",
  )


def _sampling(steps: int, weight: float, low: float | None) -> dict:
  return dict(
    sampler="ancestral",
    steps=steps,
    gamma=0.3,
    guidance=dict(weight=weight, low=low, constant_part=0.2),
    threshold="dynamic" if low is not None else "static",
    percentile=99.5,
  )


def _stages() -> dict:
  conv = dict(time="convolution")
  # The base's small pictures leave room to keep what comes out of attention too, and where most blocks are what goes in.
  kept = (("conv", "out"), ("conv", "out"), ("conv", "heads", "out"))
  unets = dict(
    # Two or three residual blocks before one attention of each kind: convolutions fill a TPU's matrix units, small attentions do not.
    base=_unet(_levels((640, 1280, 2560), (1, 2, 7), residuals=(2, 3, 2), time="attention", attend=2, saved=kept)),
    tsr1=_unet(_levels((512, 1024, 1536), (3, 4, 8), attend=2, **conv)),
    ssr1=_unet(_levels((256, 512, 1024, 1408), (2, 3, 4, 7), attend=2, **conv)),
    ssr2=_unet(_levels((128, 256, 512, 1024, 1280), (1, 2, 3, 5, 7), attend=1, **conv)),
    tsr2=_unet(_levels((128, 256, 512, 1024), (2, 3, 5, 11), **conv), norm="rms"),
    tsr3=_unet(_levels((128, 256, 512, 1024), (1, 3, 4, 9), **conv), norm="rms"),
    ssr3=_unet(_levels((128, 256, 512, 1024), (1, 2, 4, 4), **conv), patch=2, norm="rms"),
  )
  stages = {}
  for before, name in zip((None, *STAGES), STAGES, strict=False):
    oscillating = name in ("base", "tsr1", "ssr1")  # above 80x48 it gives artefacts (section 2.6)
    stages[name] = dict(
      task="base" if before is None else name[:3],
      output=CLIPS[name],
      unet=unets[name],
      diffusion=dict(prediction="v", loss_weight="v", logsnr_min=-20.0, logsnr_max=20.0, logsnr_shift=0.0, text_drop=0.1),
      lowres=None if before is None else dict(input=CLIPS[before], time_fill="repeat", shrink="triangle", aug_snr=3.0),
      sampling=_sampling(256 if before is None else 128, 15.0 if oscillating else 6.0, 1.0 if oscillating else None),
    )
  return stages


def _train() -> dict:
  return dict(
    seed=0,
    steps=1_000_000,
    batch_size=256,
    accumulation=1,
    frames=0,
    image_fraction=0.0,
    crop=dict(frames=0, height=0, width=0),
    optimizer=dict(
      kind="adafactor", learning_rate=1e-4, warmup_steps=10_000, final_fraction=0.05, b1=0.9, b2=0.99, weight_decay=0.0, clip_norm=1.0
    ),
    ema_decay=0.9999,
    init_from="",
    log_every=50,
    eval_every=5000,
    eval_batches=4,
    sample_every=10_000,
    num_samples=8,
    sample_steps=64,
    adherence_every=0,
    adherence_prompts=16,
    checkpoint=dict(every=2000, max_to_keep=3, keep_period=50_000),
  )


def _train_overrides() -> dict:
  # Images outnumber videos in the paper's data (section 2.4); temporal stages learn from videos alone.
  return dict(
    base=dict(batch_size=1024, image_fraction=0.25),
    tsr1=dict(),
    ssr1=dict(image_fraction=0.25),
    ssr2=dict(batch_size=64, image_fraction=0.25),
    tsr2=dict(crop=dict(frames=16, height=64, width=64)),
    tsr3=dict(crop=dict(frames=16, height=64, width=64)),
    ssr3=dict(crop=dict(frames=8, height=256, width=256)),
  )


def _distill(stage: str) -> dict:
  oscillating = stage in ("base", "tsr1", "ssr1")
  return dict(
    teacher_steps=256,
    final_steps=8,
    stochastic=(8,),
    w_min=0.0,
    w_max=15.0 if oscillating else 6.0,
    loss_weight="truncated_snr",
    guidance_updates=50_000,
    updates=50_000,
    last_updates=100_000,
    learning_rate=1e-4,
    num_samples=8,
    adherence_prompts=0,
  )
