"""`ivid evaluate`: a folder of clips, a cascade, and wrong commands."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from ivid.__main__ import main
from ivid.evaluate import adherence, dual_encoder, judged
from ivid.evaluate.calibrate import make_clip
from ivid.evaluate.judged import from_folder
from ivid.evaluate.prompts import parse_prompt
from ivid.media.clips import ClipFile, read_clip, write_clip
from ivid.moving_shapes import grammar
from ivid.moving_shapes.scene import attributes, make_scene
from ivid.sample.cascades import write_cascade
from ivid.spec.cascade import CascadeSpec
from ivid.spec.clip import ClipShape
from ivid.spec.retrieval import RetrievalSpec
from ivid.spec.stage import Task
from ivid.text import encoder, t5
from tests.sample import tiny


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


def test_a_long_clip_is_judged_without_being_held(tmp_path, monkeypatch):
  """Of 240 frames those alone are in memory that are looked at, and what is seen is what the whole shows."""
  scene = make_scene(1, 0, two_objects=False)
  said = attributes(scene)
  prompt = parse_prompt(grammar.caption(said.objects, said.background))
  write_clip(tmp_path / "a.gif", np.repeat(make_clip(scene, 48), 15, axis=0), 20)
  whole, _ = read_clip(tmp_path / "a.gif")
  judging = from_folder(tmp_path, [prompt])
  ((asked,), (clip,)) = judging.prompts, judging.clips([0])
  held, read = [], ClipFile.__getitem__
  monkeypatch.setattr(ClipFile, "__getitem__", lambda self, frames: held.append(np.size(frames)) or read(self, frames))
  found, want = adherence.judge(asked, clip), adherence.judge(prompt, whole)
  assert isinstance(clip, ClipFile) and len(clip) == len(whole) == 240 and max(held) == 16
  assert (found.seen, found.right) == (want.seen, want.right)
  np.testing.assert_array_equal(found.frames, want.frames)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A cascade of one base large enough to be judged, with random weights, and a stage that was never trained."""
  folder = tmp_path_factory.mktemp("cascade")
  text = dataclasses.replace(tiny.TEXT, max_tokens=128)
  encoder.save_encoder(folder / "text", text, t5.init_params(jax.random.key(0), text))
  size = ClipShape(frames=4, height=24, width=40, fps=0.75)
  stages = [
    tiny.tiny_stage("base", Task.BASE, size),
    tiny.tiny_stage("tsr1", Task.TSR, dataclasses.replace(size, frames=8, fps=1.5), lowres=size),
  ]
  stages = [dataclasses.replace(stage, text_encoder=encoder.load_encoder(folder / "text").hash) for stage in stages]
  trained = {stage.name: (stage, tiny.random_params(stage, 0), 100) for stage in stages}
  return write_cascade(folder / "judged", CascadeSpec("judged", text, tuple(stages)), trained, folder / "text").folder


def test_single_images_of_a_cascade(base, capsys, tmp_path):
  options = ["evaluate", f"--cascade={base}", "--images", "--steps=2", "--guidance=3", "--batch_size=1", f"--out={tmp_path}"]
  assert main([*options, "--metrics=adherence", "--prompts=1"]) == 0
  assert "plain_shape" in capsys.readouterr().out
  record = json.loads((tmp_path / "adherence.json").read_text())
  (stage,) = record["made_by"]["stages"]
  assert record["images"] and record["clips"] == 4 and list(record["summary"]) == ["one", "two", "one_held_out", "two_held_out"]
  assert stage["name"] == "base" and stage["sampling"]["steps"] == 2 and stage["sampling"]["guidance"]["weight"] == 3.0
  assert all("motion" not in result["right"] for result in record["results"])
  (tmp_path / "prompts.txt").write_text("a large red circle on a black background\n")
  assert main([*options, f"--prompts_file={tmp_path / 'prompts.txt'}"]) == 0
  record = json.loads((tmp_path / "adherence.json").read_text())
  assert [result["prompt"] for result in record["results"]] == ["a large red circle on a black background"]
  capsys.readouterr()
  assert main([*options, "--stop_stage=tsr1"]) == 1
  assert "--images with --stop_stage=tsr1: expected base, the base, alone" in capsys.readouterr().err
  (tmp_path / "prompts.txt").write_text("a large red circle moves left on a black background\n")
  assert main([*options, f"--prompts_file={tmp_path / 'prompts.txt'}"]) == 1
  assert "prompts.txt, line 1: caption word 5, 'moves'" in capsys.readouterr().err


@pytest.mark.slow
def test_two_metrics_of_clips_that_are_made_once(base, capsys, tmp_path, monkeypatch):
  size = ClipShape(frames=8, height=24, width=40, fps=1.5)
  text = encoder.load_encoder(base.parent / "text")
  spec = RetrievalSpec(size, channels=(4, 8), head_dim=4, hidden=8, dim=6, text_dim=text.spec.dim, text=str(base.parent / "text"))
  spec = dataclasses.replace(spec, text_encoder=text.hash)
  params = jax.jit(lambda key: nn.meta.unbox(dual_encoder.init_params(spec, key)))(jax.random.key(0))
  dual_encoder.save_network(tmp_path / "network", spec, params)
  runs, run = [], judged.run_cascade
  monkeypatch.setattr(judged, "run_cascade", lambda *args, **options: runs.append(1) or run(*args, **options))
  options = ["evaluate", f"--cascade={base}", "--prompts=3", "--steps=1", "--batch_size=4", f"--retrieval={tmp_path / 'network'}"]
  assert main([*options, "--metrics=retrieval,adherence", f"--out={tmp_path / 'both'}"]) == 0
  assert "12 clips among 12 prompts" in capsys.readouterr().out and len(runs) == 1
  assert sorted(path.name for path in (tmp_path / "both").iterdir() if path.suffix == ".json") == ["adherence.json", "retrieval.json"]
  assert not [path for path in (tmp_path / "both").iterdir() if path.name.startswith(".")]
  assert main([*options, "--metrics=retrieval", f"--out={tmp_path / 'one'}"]) == 0
  one, both = (json.loads((tmp_path / name / "retrieval.json").read_text()) for name in ("one", "both"))
  assert one == both


def test_images_too_small_to_be_judged(capsys, tmp_path):
  cascade = tiny.write_tiny(tmp_path)
  assert main(["evaluate", f"--cascade={cascade.folder}", "--images", f"--out={tmp_path / 'eval'}"]) == 1
  assert "picture 8x12: expected 24 rows or more" in capsys.readouterr().err and not (tmp_path / "eval").exists()


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--metric=adherance"], "metric 'adherance': did you mean 'adherence'?"),
    (["--metrics=adherence,upsamplin"], "metric 'upsamplin': did you mean 'upsampling'?"),
    (["--metrics="], "--metrics is empty: expected one of adherence, fvd, retrieval, upsampling"),
    (["--images", "--metrics=upsampling"], "--images with metric upsampling: expected --metrics=adherence"),
    (["--images", "--metrics=adherence,fvd"], "--images with metric fvd: expected --metrics=adherence"),
    (["--images", "--clips=a"], "--images beside --clips=a: expected --cascade"),
    (["--images", "--prompts=0"], "prompts=0: expected 1 or more"),
    (["--start_stage=tsr1"], "--start_stage=tsr1 with metric adherence: expected --metrics=upsampling"),
    (["--batch_size=0"], "batch_size=0: expected 1 or more"),
    (["--prompts=0"], "prompts=0: expected 1 or more"),
    (["--groups=tow"], "prompt group 'tow'"),
    (["--clips=nowhere"], "no folder of clips at nowhere"),
    (["--clips=a", "--stop_stage=base"], "--clips beside --cascade or --stop_stage"),
    (["--cascade=nona"], "no cascade 'nona'"),
    (["--metrics=retrieval", "--retrieval=nowhere"], "no retrieval network at nowhere: expected spec.json and weights.safetensors"),
    (["--metrics=retrieval", "--images"], "--images with metric retrieval: expected --metrics=adherence"),
  ],
)
def test_bad_input_is_one_line(capsys, args, message):
  assert main(["evaluate", *args]) == (2 if message.startswith("--") else 1)  # flags against a value
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1 and message in lines[0], lines


def test_a_clip_too_short(capsys, tmp_path):
  scene = make_scene(1, 0, two_objects=False)
  said = attributes(scene)
  write_clip(tmp_path / "a.png", make_clip(scene, 24, frames=2), 3.0, metadata=dict(prompt=grammar.caption(said.objects, said.background)))
  assert main(["evaluate", f"--clips={tmp_path}", f"--out={tmp_path / 'eval'}"]) == 1
  assert f"{tmp_path / 'a.png'}: clip 2x24x40: expected 8 frames" in capsys.readouterr().err
  assert not (tmp_path / "eval").exists()
