"""Imagen Video at full size on moving_shapes with nano's text encoder: a pod's first job, before there are a data set and T5 weights.

  ivid train --config=imagen_video_shapes:base --workdir=/mnt/ivid/base

Batches, meshes and networks are those of `imagen_video`, but for the width and length of the text.
"""

import ml_collections


def get_config(stage: str = "base") -> ml_collections.ConfigDict:
  """The cascade, and how to train `stage` of it."""
  from ivid.config import load_config  # configs stay importable without the package's heavier parts

  config = load_config(f"imagen_video:{stage}")
  text = load_config("nano").cascade.text
  with config.unlocked():
    config.cascade.name = "imagen_video_shapes"
    config.cascade.text = text
    for other in config.cascade.stages.values():
      other.unet.text_dim = text.dim
    config.data.name, config.data.text_encoder = "moving_shapes", "nano"
  return config
