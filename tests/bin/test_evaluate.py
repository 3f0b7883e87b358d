"""`ivid evaluate`: a folder of clips, a cascade, and wrong commands."""

import json

import pytest

from ivid.__main__ import main
from ivid.data import grammar
from ivid.data.moving_shapes import attributes, make_scene
from ivid.evaluate.calibrate import make_clip
from ivid.media.clips import write_clip


def test_a_folder_of_real_clips(capsys, tmp_path):
  for index in range(3):
    scene = make_scene(1, index, two_objects=False)
    said = attributes(scene)
    caption = grammar.caption(said.objects, said.background)
    write_clip(tmp_path / f"{index}.png", make_clip(scene, 48), 3.0, metadata=dict(prompt=caption))
  assert main(["evaluate", f"--clips={tmp_path}", f"--out={tmp_path / 'eval'}"]) == 0
  assert "one" in capsys.readouterr().out
  record = json.loads((tmp_path / "eval" / "adherence.json").read_text())
  assert sum(group["background"]["right"] for group in record["summary"].values()) == 3


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--metric=adherance"], "metric 'adherance': did you mean 'adherence'?"),
    (["--batch_size=0"], "batch_size=0: expected 1 or more"),
    (["--prompts=0"], "prompts=0: expected 1 or more"),
    (["--groups=tow"], "prompt group 'tow'"),
    (["--clips=nowhere"], "no folder of clips at nowhere"),
    (["--clips=a", "--stop_stage=base"], "--clips beside --cascade or --stop_stage"),
    (["--cascade=nona"], "no cascade 'nona'"),
  ],
)
def test_bad_input_is_one_line(capsys, args, message):
  assert main(["evaluate", *args]) == 1
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1 and message in lines[0], lines


def test_a_clip_too_short(capsys, tmp_path):
  scene = make_scene(1, 0, two_objects=False)
  said = attributes(scene)
  write_clip(tmp_path / "a.png", make_clip(scene, 24, frames=2), 3.0, metadata=dict(prompt=grammar.caption(said.objects, said.background)))
  assert main(["evaluate", f"--clips={tmp_path}", f"--out={tmp_path / 'eval'}"]) == 1
  assert f"{tmp_path / 'a.png'}: clip 2x24x40: expected 8 frames" in capsys.readouterr().err
  assert not (tmp_path / "eval").exists()
