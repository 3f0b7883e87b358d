"""The front door: what Python gives is what the command gives, and importing it is light."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import ivid
from ivid import __main__ as command_line
from ivid.media.clips import read_clip, read_metadata
from ivid.parallel.mesh import make_mesh
from ivid.spec.run import MeshSpec
from tests.sample import tiny

PROMPT = "a red ball"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny.write_tiny(tmp_path_factory.mktemp("cascades")).folder


@pytest.fixture
def cascade(folder, monkeypatch):
  monkeypatch.setattr("ivid.pipeline.enable_compilation_cache", lambda: None)  # the tests have their own
  monkeypatch.setattr("ivid.runs.cache.enable_compilation_cache", lambda: None)
  return ivid.load(folder)


def test_the_same_pixels_as_the_command(cascade, folder, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (clip,) = cascade.sample(PROMPT, seed=3, stop="tsr1", steps={"base": 4}, guidance=2.0, batch_size=1)
  flags = [f"--prompt={PROMPT}", "--seed=3", "--stop_stage=tsr1", "--steps=base=4", "--guidance=2", "--batch_size=1", "--format=png"]
  assert command_line.main(["sample", f"--cascade={folder}", *flags]) == 0
  frames, fps = read_clip(capsys.readouterr().out.strip())
  np.testing.assert_array_equal(clip.frames, frames)
  assert (clip.frames.dtype, clip.fps, clip.stage, clip.prompt) == (np.uint8, fps, "tsr1", PROMPT)


def test_a_clip_is_saved_and_made_again(cascade, tmp_path):
  clip = cascade.sample([PROMPT, "a green cube"], num_samples=2, stop="base")[3]
  path = clip.save(tmp_path / "new" / "cube.png")
  np.testing.assert_array_equal(read_clip(path)[0], clip.frames)
  assert read_metadata(path) == json.loads(path.with_suffix(".json").read_text()) == clip.metadata
  for metadata in (path, path.with_suffix(".json"), clip.metadata):
    np.testing.assert_array_equal(cascade.repeat(metadata).frames, clip.frames)


def test_stages_as_they_finish_and_a_clip_to_start_from(cascade, tmp_path):
  made = list(cascade.stages([PROMPT, "a green cube"], seed=1, batch_size=1))
  assert [clip.stage for clip in made] == ["base"] * 2 + ["tsr1"] * 2 + ["ssr1"] * 2
  middle, last = made[2], made[4]
  (entered,) = cascade.sample(PROMPT, seed=1, start="ssr1", input=middle.frames, batch_size=1)
  np.testing.assert_array_equal(entered.frames, last.frames)
  (again,) = cascade.sample(PROMPT, seed=1, start="ssr1", input=middle.save(tmp_path / "middle.png"), batch_size=1)
  np.testing.assert_array_equal(again.frames, last.frames)


def test_on_a_mesh(cascade):
  mesh = make_mesh(MeshSpec(data=2), jax.devices()[:2])
  (one, two) = cascade.sample([PROMPT, "a green cube"], stop="base", batch_size=2, mesh=mesh)
  (alone,) = cascade.sample("a green cube", stop="base", batch_size=1)
  assert np.abs(two.frames.astype(int) - alone.frames).max() <= 1 and not np.array_equal(one.frames, two.frames)
  with pytest.raises(ivid.UserError, match="a batch of 1 clips on a mesh of 2 rows: expected multiples of 2 clips and batch_size=2"):
    cascade.sample(PROMPT, stop="base", batch_size=1, mesh=mesh)


def test_progress_is_shown_when_asked_for(cascade, capsys):
  cascade.sample(PROMPT, stop="base")
  assert capsys.readouterr().err == ""
  cascade.sample(PROMPT, stop="base", progress=True)
  assert "base" in capsys.readouterr().err


@pytest.mark.parametrize(
  "prompts, options, message",
  [
    (PROMPT, dict(stop="ssr9"), "unknown stage 'ssr9': did you mean 'ssr1'"),
    (PROMPT, dict(steps=0), "steps=0: expected 1 or more"),
    (PROMPT, dict(num_samples=0), "num_samples=0: expected 1 or more"),
    (PROMPT, dict(batch_size=-1), "batch_size=-1: expected 1 or more"),
    (PROMPT, dict(start="ssr1"), "needs --input=clip"),
    (PROMPT, dict(start="ssr1", input=np.zeros((4, 8, 12))), "input of float64 [4, 8, 12]: expected uint8 [frames, height, width, 3]"),
    ([], {}, "no prompt: expected a description of the clip"),
  ],
)
def test_what_a_user_causes_is_a_user_error(cascade, prompts, options, message):
  with pytest.raises(ivid.UserError) as error:
    cascade.sample(prompts, **options)
  assert message in str(error.value) and "\n" not in str(error.value)


def test_an_option_that_does_not_exist_is_a_type_error(cascade):
  with pytest.raises(TypeError, match="unknown option 'stpes'"):
    cascade.sample(PROMPT, stpes=3)


def test_names_of_the_front_door():
  for name in ivid.__all__:
    assert getattr(ivid, name)
  assert set(ivid.__all__) <= set(dir(ivid))
  with pytest.raises(AttributeError, match="module 'ivid' has no attribute 'nothing'"):
    ivid.nothing  # noqa: B018


def test_importing_ivid_loads_nothing_heavy():
  code = "import sys, ivid; heavy = {'jax', 'flax', 'numpy', 'ml_collections', 'absl'} & set(sys.modules); assert not heavy, heavy"
  root = pathlib.Path(__file__).parents[1]
  run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
  assert run.returncode == 0, run.stderr
