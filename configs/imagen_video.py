"""Imagen Video at full size: the seven stages of the paper, 11.63B parameters, for TPU pods (2210.02303, figure 6).

  ivid data import-t5 --from=T5_XXL_CHECKPOINT --tokenizer=SENTENCEPIECE_MODEL --model=t5_v1_1_xxl --out=T5_XXL_FOLDER
  ivid data embed --config=imagen_video:base --config.data.name=tfds:NAME --config.data.text_encoder=T5_XXL_FOLDER --out=EMBEDDINGS
  ivid train --config=imagen_video:base --workdir=runs/base --config.data.name=tfds:NAME --config.data.embeddings=EMBEDDINGS

`launch/` starts this on every host of a slice; `ivid compile --config=imagen_video:base --topology=v5p:4x4x8` says beforehand, without one,
what a chip holds and how long a step takes. With the bucket as a folder on every host, launch/README.md shows the whole way. Batches and
meshes are for these slices; there the compiler estimates, before collectives:

  stage slice       batch                per chip  step   MFU
  base  v5p:4x4x8   1024 of 16x24x40    44.2 GB   1.28 s  0.62
  tsr1  v5p:4x4x4    256 of 32x24x40    19.9 GB   0.53 s  0.58
  ssr1  v5p:4x4x4    256 of 32x48x80    29.3 GB   0.58 s  0.57
  ssr2  v5p:4x4x4     64 of 32x192x320  32.8 GB   0.67 s  0.54
  tsr2  v5p:4x4x4    256 of 16x64x64     8.0 GB   0.13 s  0.49
  tsr3  v5p:4x4x4    256 of 16x64x64     6.4 GB   0.10 s  0.49
  ssr3  v5p:4x4x4    256 of 8x256x256    9.4 GB   0.14 s  0.54
"""

import ml_collections

OSCILLATING = ("base", "tsr1", "ssr1")  # guidance; above 80x48 it gives artefacts (section 2.6)
IN_LINE = 3  # blocks of a level, at most


def get_config(stage: str = "base") -> ml_collections.ConfigDict:
  """The cascade, and how to train and distil `stage` of it."""
  stages = _stages()
  cascade = dict(name="imagen_video", text=_text(), order=tuple(stages), stages=stages)
  distill = dict(guidance_updates=50_000, updates=50_000, last_updates=100_000, learning_rate=1e-4, num_samples=8)
  distill |= dict(stochastic=(8,), w_max=15.0 if stage in OSCILLATING else 6.0)
  data = dict(text_encoder="t5_xxl", threads=16, prefetch=8)
  config = dict(stage=stage, cascade=cascade, train=_train(stage), distill=distill, mesh=dict(fsdp=16), data=data)
  return ml_collections.ConfigDict(config)


def _text() -> dict:
  """T5 v1.1 XXL (1910.10683, 2002.05202)."""
  sizes = dict(vocab_size=32128, dim=4096, layers=24, heads=64, head_dim=64, mlp_dim=10240)
  return dict(name="t5_v1_1_xxl", tokenizer="t5.model", max_tokens=256, dtype="bfloat16", **sizes)


def _stages() -> dict:
  # The base's small pictures leave room to keep what comes out of attention too, and where most blocks are what goes in.
  kept = (("conv", "out"), ("conv", "out"), ("conv", "heads", "out"))
  # Two to four residual blocks before one attention of each kind or one convolution over time: the spatial convolutions fill a TPU's matrix
  # units, the others do not. For the same reason super-resolution reads the tokens of the text only at its coarsest level: at 512 channels
  # this took as long as the spatial convolutions, and the pooled text reaches every block.
  base = _levels((640, 1280, 2560), (1, 2, 5), attend=2, read=2, time="attention", residuals=(2, 4, 3), saved=kept)
  tsr1 = _levels((512, 1024, 1536), (1, 3, 5), attend=2, residuals=(2, 2, 2))
  ssr1 = _levels((256, 512, 1024, 1408), (1, 2, 2, 5), attend=2, residuals=(2, 2, 2, 2))
  # Fully convolutional: these attend to the text alone, which has no place in the picture and is the same for every tile.
  widths = (128, 256, 512, 1024)
  tsr2, tsr3, ssr3 = (_levels(widths, blocks, residuals=(1, 2, 2, 2)) for blocks in ((1, 2, 3, 6), (1, 1, 2, 5), (1, 1, 3, 2)))
  return dict(
    base=_stage("base", (16, 24, 40, 3.0), base),
    tsr1=_stage("tsr1", (32, 24, 40, 6.0), tsr1),
    ssr1=_stage("ssr1", (32, 48, 80, 6.0), ssr1),
    ssr2=_stage("ssr2", (32, 192, 320, 6.0), _levels((128, 256, 512, 1024, 1280), (1, 2, 3, 5, 7), attend=1)),
    tsr2=_stage("tsr2", (64, 192, 320, 12.0), tsr2, norm="rms"),
    tsr3=_stage("tsr3", (128, 192, 320, 24.0), tsr3, norm="rms"),
    ssr3=_stage("ssr3", (128, 768, 1280, 24.0), ssr3, norm="rms", patch=2),
  )


def _levels(
  channels: tuple,
  blocks: tuple,
  *,
  attend: int = 0,
  read: int = 1,
  time: str = "convolution",
  residuals: tuple = (),
  saved: tuple = (),
) -> list:
  """Levels from the finest to the coarsest; the last `attend` of them attend over the frame, and the last `read` to the text.

  `saved` of a block is kept for the backward pass, by default the results of its convolutions, and all else computed again. A loop over
  blocks writes all that it keeps twice, so that levels of few blocks have them in line; more would take the compiler too long.
  """
  residuals, saved = residuals or (1,) * len(channels), saved or (("conv",),) * len(channels)
  levels = []
  for i, (width, count, depth, kept) in enumerate(zip(channels, blocks, residuals, saved, strict=True)):
    looks, reads = i >= len(channels) - attend, i >= len(channels) - read
    level = dict(channels=width, blocks=count, residuals=depth, time=time, spatial_attention=looks, cross_attention=reads)
    levels.append(level | dict(remat=True, saved=kept, unroll=count if count <= IN_LINE else 1))
  return levels


def _stage(name: str, clip: tuple, levels: list, **unet) -> dict:
  base = name == "base"
  if name in OSCILLATING:
    guided = dict(guidance=dict(weight=15.0, low=1.0), threshold="dynamic")
  else:
    guided = dict(guidance=dict(weight=6.0))
  text_width = 1024 if any(level["cross_attention"] for level in levels) else 0
  common = dict(embed_dim=1024, head_dim=128, norm_groups=32, text_dim=4096, text_width=text_width, dtype="bfloat16")
  return dict(
    task=name.rstrip("123"),
    output=dict(zip(("frames", "height", "width", "fps"), clip, strict=True)),
    unet=dict(levels=levels, **common, **unet),
    lowres=None if base else dict(shrink="triangle", aug_snr=3.0),
    sampling=dict(sampler="ancestral", steps=256 if base else 128, **guided),
  )


def _train(stage: str) -> dict:
  tsr = dict(frames=16, height=64, width=64)
  return dict(
    steps=1_000_000,
    batch_size=dict(base=1024, ssr2=64).get(stage, 256),
    image_fraction=0.25,  # in every stage (section 2.6); images outnumber videos in the paper's data (section 2.4)
    crop=dict(tsr2=tsr, tsr3=tsr, ssr3=dict(frames=8, height=256, width=256)).get(stage, {}),
    # Adafactor for the base, Adam for super-resolution, where Adafactor hurt (Imagen, appendix).
    optimizer=dict(kind="adafactor" if stage == "base" else "adam", learning_rate=1e-4, warmup_steps=10_000),
    ema_decay=0.9999,
    eval_every=5000,
    sample_every=10_000,
    sample_steps=64,
    checkpoint=dict(every=2000, max_to_keep=3, keep_period=50_000),
  )
