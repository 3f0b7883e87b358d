"""A cascade's stages chain, and a break says which number does not fit."""

import dataclasses

import pytest

from ivid.bin.config import load_run
from ivid.spec.cascade import CascadeSpec
from ivid.spec.clip import ClipShape

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
