"""Captions of a batch, from the pipeline's lists to the arrays a step is given."""

import dataclasses

import jax
import numpy as np
import pytest

from ivid.config import load_run
from ivid.data.pipeline import make_pipeline
from ivid.parallel.mesh import make_mesh
from ivid.spec.batch import CaptionLayout
from ivid.spec.run import MeshSpec
from ivid.train.run import device_batches, make_training

RUN = load_run("tiny:base")
STAGE = RUN.cascade.stage("base")


@pytest.mark.parametrize("devices, rows, count", [(2, 4, 1), (8, 1, 1)], ids=["in groups", "a caption a frame"])
def test_captions_lie_beside_their_rows(devices, rows, count):
  train = dataclasses.replace(RUN.train, batch_size=8, image_fraction=0.25, accumulation=1)
  frames = STAGE.output.frames
  training = make_training(STAGE, train, make_mesh(MeshSpec(data=devices), devices=jax.devices()[:devices]), max_tokens=3)
  seen = []

  def embed(captions):
    """Each caption's place in the call in every value."""
    seen.extend(captions)
    values = np.arange(len(captions), dtype=np.float32)[:, None, None]
    return np.broadcast_to(values, (len(captions), 3, STAGE.unet.text_dim)), np.ones((len(captions), 3), bool)

  host = make_pipeline(data=RUN.data, train=train, stage=STAGE)
  example = next(host)
  batch = next(device_batches((one for one in [example]), embed, training.batch))
  for name, array in batch.items():
    assert array.shape == training.batch[name].shape and array.sharding == training.batch[name].sharding
  groups, captions = batch["text"].shape[:2]
  layout = CaptionLayout.of((groups, captions), batch_size=8, frames=frames)
  assert layout == CaptionLayout(rows, count)
  places = np.asarray(batch["text"])[..., 0, 0].astype(int)
  for row, said in enumerate(example["captions"]):
    group, place = divmod(row, rows)
    mine = places[group, place * frames : (place + 1) * frames] if place < count else places[group, count * (frames - 1) + place :][:1]
    assert [seen[i] for i in mine] == (said * frames if rows == 1 and len(said) == 1 else said)
