"""Batches that the devices draw: the pixels of numpy, each row where it is trained on; and a run on them."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from ivid.config import load_run
from ivid.data import frames
from ivid.data.pipeline import make_pipeline
from ivid.measure import hlo
from ivid.moving_shapes.scene import make_scene
from ivid.parallel.mesh import make_mesh
from ivid.runs.training import train_stage
from ivid.spec import batch as batches
from ivid.spec.phase import PhaseSpec
from ivid.spec.run import CropSpec, DataSpec, Draw, MeshSpec
from ivid.spec.view import make_view
from ivid.train.drawing import make_drawing
from ivid.train.run import device_batches, make_training

RUN = load_run("tiny:base")
DEVICE = dataclasses.replace(RUN.data, draw=Draw.DEVICE)
SHARE = 1e-3  # of values that may differ by 1: nano's do in 8e-5


def test_frames_hold_the_scene():
  scene = make_scene(3, 4, two_objects=True)
  packed = frames.pack(scene, np.array([0.5, 1.25]), (7, 300))
  assert packed.shape == (2, frames.length()) and packed.dtype == np.float32
  for row, seconds in zip(packed, (0.5, 1.25), strict=True):
    found, time, corner = frames.unpack(row)
    assert time == seconds and corner == (7, 300)
    for have, want in zip(found, scene, strict=True):
      np.testing.assert_array_equal(have, want)
      assert have.dtype == want.dtype and have.shape == np.shape(want)


def drawn(stage, train, training, program):
  """The same batches, drawn by the devices and by numpy."""
  embed = lambda captions: (np.zeros((len(captions), 2, stage.unet.text_dim), np.float32), np.ones((len(captions), 2), bool))  # noqa: E731
  fed = device_batches(make_pipeline(data=DEVICE, train=train, stage=stage), embed, training.batch)
  host = make_pipeline(data=RUN.data, train=train, stage=stage)
  draw = program.jit()
  while True:
    batch = next(fed)
    assert batches.VIDEO not in batch and batch[batches.FRAMES].sharding == training.batch[batches.VIDEO].sharding
    video = draw(batch[batches.FRAMES])
    assert video.sharding.is_equivalent_to(training.batch[batches.VIDEO].sharding, video.ndim)
    yield video, next(host)[batches.VIDEO]


@pytest.mark.parametrize(
  ("name", "changes"),
  [
    ("base", dict(image_fraction=0.5)),  # clips and packed images in one batch
    ("base", dict(frames=1)),
    ("ssr1", dict(crop=CropSpec(frames=4, height=16, width=24))),
  ],
  ids=["mixed", "images", "crops"],
)
def test_pixels_are_those_of_numpy(name, changes):
  run = load_run(f"tiny:{name}")
  stage, train = run.cascade.stage(name), dataclasses.replace(run.train, **changes)
  different, total = 0, 0
  with jax.set_mesh(mesh := make_mesh(MeshSpec(data=4, fsdp=2))):
    training = make_training(stage, train, mesh, max_tokens=2)
    program = make_drawing(make_view(train, stage), training.batch, mesh)
    for video, want in itertools.islice(drawn(stage, train, training, program), 6):
      described = training.batch[batches.VIDEO]
      assert (video.shape, video.dtype) == (described.shape, described.dtype) == (want.shape, want.dtype)
      apart = np.abs(np.asarray(video).astype(int) - want)
      assert apart.max() <= 1
      different, total = different + np.count_nonzero(apart), total + apart.size
    assert not hlo.program_cost(program.lower().compile().as_text()).collectives  # each row by itself
  assert different <= SHARE * total


def test_a_run_draws_on_the_devices_from_a_worker_and_resumes(tmp_path):
  """With packed images, stopped once: the losses of a run that numpy draws for."""
  stage = RUN.cascade.stage("base")
  stage = dataclasses.replace(stage, unet=dataclasses.replace(stage.unet, levels=stage.unet.levels[:1]))
  cascade = dataclasses.replace(RUN.cascade, stages=(stage, *RUN.cascade.stages[1:]))
  # A phase's learning rate does not depend on where the run is stopped.
  train = dataclasses.replace(RUN.train, steps=None, phases=(PhaseSpec("only", steps=3),), image_fraction=0.5, eval_every=0, log_every=1)
  losses = {}
  for data, stops in ((RUN.data, (None,)), (dataclasses.replace(DEVICE, workers=1), (2, None))):
    folder = tmp_path / data.draw.value
    for steps in stops:
      run = dataclasses.replace(RUN, cascade=cascade, data=data, train=dataclasses.replace(train, steps=steps))
      assert train_stage(run, stage, folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses[data.draw] = [row["train/loss"] for row in rows if "train/loss" in row]
  assert len(losses[Draw.HOST]) == 3
  np.testing.assert_allclose(losses[Draw.DEVICE], losses[Draw.HOST], rtol=1e-3)


def test_only_what_is_drawn_can_be_drawn():
  with pytest.raises(ValueError, match="data.draw=device: data.name='tfds:clips' is not drawn: expected moving_shapes, or data.draw=host"):
    DataSpec(name="tfds:clips", draw=Draw.DEVICE)
  with pytest.raises(ValueError, match="data.draw='divice': did you mean 'device'"):
    load_run("tiny:base", ["data.draw=divice"])
