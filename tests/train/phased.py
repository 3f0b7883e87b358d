"""A config of tests: tiny's base on a level of convolutions, with given frames, in three phases of four steps."""

import ivid.configs.tiny as tiny


def get_config(stage: str = "base"):
  config = tiny.get_config(stage)
  with config.unlocked():
    base = config.cascade.stages.base
    base.unet.update(levels=[dict(channels=8, time="convolution")], given=True)
    config.train.update(steps=None, image_fraction=0.0, eval_every=0, log_every=1)
    config.train.checkpoint.every = 1
    config.train.phases = (
      dict(name="images", steps=4, frames=1, batch_size=16, logsnr_shift=1.0),
      dict(name="spread", steps=4, frames=2, image_fraction=0.5, learning_rate=2e-3),
      dict(name="whole", steps=4),
    )
  return config
