"""Tiny: three stages of a few thousand parameters, seconds to train and run; for tests.

ivid train --config=tiny:base --workdir=runs/tiny
"""

import ml_collections

STAGES = ("base", "tsr1", "ssr1")


def get_config(stage: str = "base") -> ml_collections.ConfigDict:
  """The cascade, and how to train `stage` of it."""
  if stage not in STAGES:
    from ivid.spec.errors import nearest  # configs stay importable without the package's heavier parts

    raise ValueError(f"unknown stage {stage!r}: {nearest(stage, STAGES)}")
  return ml_collections.ConfigDict(
    dict(
      stage=stage,
      cascade=dict(
        name="tiny",
        text=dict(name="nano", dim=256, layers=5, heads=8, head_dim=32, mlp_dim=832, max_tokens=128),
        order=STAGES,
        stages=_stages(),
      ),
      train=dict(
        seed=0,
        steps=20,
        batch_size=8,
        accumulation=1,
        frames=0,
        image_fraction=0.25 if stage == "base" else 0.0,
        crop=dict(frames=0, height=0, width=0),
        optimizer=dict(kind="adam", learning_rate=1e-3, warmup_steps=5, clip_norm=1.0),
        ema_decay=0.99,
        init_from="",
        log_every=5,
        eval_every=10,
        eval_batches=1,
        sample_every=0,
        num_samples=2,
        sample_steps=2,
        adherence_every=0,
        adherence_prompts=1,
        checkpoint=dict(every=10, max_to_keep=2, keep_period=0),
      ),
      distill=dict(
        teacher_steps=8,
        final_steps=2,
        stochastic=(),
        w_min=0.0,
        w_max=4.0 if stage == "base" else 0.0,
        guidance_updates=4,
        updates=4,
        last_updates=4,
        learning_rate=1e-3,
        num_samples=2,
        adherence_prompts=0,
      ),
      mesh=dict(data=-1, fsdp=1, tensor=1),
      data=dict(name="moving_shapes", dir="", caption_pool=0, cache="", text_encoder="nano", embeddings="", draw="host", workers=0),
    ),
    convert_dict=True,
  )


def _stages() -> dict:
  clips = dict(
    base=dict(frames=4, height=12, width=20, fps=0.75),
    tsr1=dict(frames=8, height=12, width=20, fps=1.5),
    ssr1=dict(frames=8, height=24, width=40, fps=1.5),
  )
  attend = dict(spatial_attention=True, cross_attention=True)
  sampling = dict(sampler="ddim", steps=2, guidance=dict(weight=0.0))
  stages = {}
  for before, name in zip((None, *STAGES), STAGES, strict=False):
    time = "attention" if before is None else "convolution"
    levels = [dict(channels=8, time=time), dict(channels=16, time=time, **attend)]
    unet = dict(levels=levels, patch=4 if name == "ssr1" else 2, embed_dim=16, head_dim=8, norm_groups=4, text_dim=256)
    lowres = None if before is None else dict(input=clips[before])
    stages[name] = dict(
      task="base" if before is None else name[:3],
      output=clips[name],
      unet=unet,
      diffusion=dict(prediction="x"),
      lowres=lowres,
      sampling=sampling,
    )
  return stages
