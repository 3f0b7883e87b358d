"""A cascade's stages chain, and a break says which number does not fit."""

import dataclasses

import jax
import pytest

from ivid.config import load_run
from ivid.spec.batch import batch_spec
from ivid.spec.cascade import CascadeSpec
from ivid.spec.clip import ClipShape
from ivid.spec.view import make_view, training_view
from ivid.stage import Stage

NANO = load_run("nano:base").cascade
PAPER = {  # Imagen Video, figure 6: frames x height x width at frames a second
  "base": ClipShape(16, 24, 40, 3),
  "tsr1": ClipShape(32, 24, 40, 6),
  "ssr1": ClipShape(32, 48, 80, 6),
  "ssr2": ClipShape(32, 192, 320, 6),
  "tsr2": ClipShape(64, 192, 320, 12),
  "tsr3": ClipShape(128, 192, 320, 24),
  "ssr3": ClipShape(128, 768, 1280, 24),
}


DOUBLING = load_run("doubling:base").cascade
DOUBLED = {  # the progressively distilled cascade: every stage doubles, the last spatial one changes the aspect
  "base": (4, 64, 64),
  "ssr1": (4, 128, 128),
  "tsr1": (8, 128, 128),
  "ssr2": (8, 256, 256),
  "tsr2": (16, 256, 256),
  "ssr3": (16, 512, 512),
  "tsr3": (32, 512, 512),
  "ssr4": (32, 1024, 1024),
  "tsr4": (64, 1024, 1024),
  "ssr5": (64, 768, 1280),
  "tsr5": (128, 768, 1280),
}


def test_doubling_geometry():
  assert {stage.name: stage.output.array[:3] for stage in DOUBLING.stages} == DOUBLED
  assert [stage.name for stage in DOUBLING.stages if stage.unet.fully_convolutional] == ["ssr5", "tsr5"]
  assert DOUBLING.stages[-1].output.fps == 24


@pytest.mark.parametrize("name", ["nano", "doubling"])
def test_every_stage_has_something_to_train_on(name):
  """One batch of the config's own crops, in shapes alone: what the stage's loss takes from it, and the clip that it is conditioned on."""
  for stage in load_run(f"{name}:base").cascade.stage_names:
    run = load_run(f"{name}:{stage}")
    view = training_view(run.cascade.stage(stage), run.train)
    size = make_view(run.train, run.cascade.stage(stage))
    assert view.output.array[:3] == (size.frames, size.height, size.width)
    sizes = dict(frames=size.frames, height=size.height, width=size.width)
    batch = batch_spec(view, batch_size=run.train.batch_size, max_tokens=16, **sizes)
    x, cond, _ = jax.eval_shape(Stage(view)._training_inputs, batch, jax.random.key(0))
    assert x.shape == (run.train.batch_size, *view.output.array)
    assert (cond.lowres is None) == (view.lowres is None) and (cond.lowres is None or cond.lowres.shape[:4] == x.shape[:4])


def test_nano_has_the_papers_geometry():
  assert {stage.name: stage.output for stage in NANO.stages} == PAPER


def test_fully_convolutional_where_the_paper_says():
  assert [stage.name for stage in NANO.stages if stage.unet.fully_convolutional] == ["tsr2", "tsr3", "ssr3"]


@pytest.mark.parametrize(("field", "value", "want"), [("frames", 8, 16), ("height", 20, 24), ("width", 36, 40), ("fps", 2.0, 3.0)])
def test_break_in_the_chain_names_the_number(field, value, want):
  base = NANO.stages[0]
  size = dataclasses.replace(base.output, **{field: value})
  broken = (dataclasses.replace(base, output=size), *NANO.stages[1:])
  with pytest.raises(ValueError, match=f"stage tsr1 expects input {field}={want}, but stage base gives {field}={value}"):
    CascadeSpec("broken", NANO.text, broken)


def test_stages_in_the_wrong_order():
  with pytest.raises(ValueError, match="stage ssr1 expects input frames=32, but stage base gives frames=16"):
    CascadeSpec("broken", NANO.text, (NANO.stages[0], NANO.stages[2]))


def test_cascade_starts_with_a_base():
  with pytest.raises(ValueError, match="first stage tsr1 has task tsr, expected base"):
    CascadeSpec("broken", NANO.text, NANO.stages[1:])


def test_text_width_must_be_the_encoders():
  with pytest.raises(ValueError, match="reads text of width 256, the encoder gives 128"):
    CascadeSpec("broken", dataclasses.replace(NANO.text, dim=128), NANO.stages)


def test_unknown_stage_names_the_nearest():
  with pytest.raises(ValueError, match=r"unknown stage 'bass': did you mean 'base'\?"):
    NANO.stage("bass")


def test_temporal_stage_keeps_the_picture():
  with pytest.raises(ValueError, match="a temporal stage keeps the picture"):
    dataclasses.replace(NANO.stage("tsr1"), output=ClipShape(32, 48, 80, 6))


def test_preconditioning_about_the_clip_needs_one():
  for name, unet in (("base", dict(residual_std=0.1)), ("ssr1", dict(residual_std=-1.0))):
    stage = NANO.stage(name)
    with pytest.raises(ValueError, match="unet.residual_std="):
      dataclasses.replace(stage, unet=dataclasses.replace(stage.unet, **unet))
