"""Imagen Video at full size on moving_shapes with nano's text encoder: a pod's first job, before there are a data set and T5 weights.

  ivid train --config=imagen_video_shapes:base --workdir=/mnt/ivid/base

Batches, meshes and networks are those of `imagen_video`, but for the width and length of the text.
"""

from ivid.config import read_config


def get_config(stage: str = "base") -> dict:
  """The cascade, and how to train `stage` of it."""
  config = read_config(f"imagen_video:{stage}")
  config["cascade"] |= dict(name="imagen_video_shapes", text={})  # nano's encoder is the default
  for other in config["cascade"]["stages"].values():
    other["unet"]["text_dim"] = 256
  config["data"]["text_encoder"] = "nano"
  return config
