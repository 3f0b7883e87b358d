"""What super-resolution adds: its figures on clips whose answer is known."""

import json

import numpy as np
import pytest

from ivid.__main__ import main
from ivid.evaluate import upsampling
from ivid.evaluate.prompts import seeded_prompts
from ivid.media.clips import write_clip
from ivid.moving_shapes import scene as moving_shapes
from ivid.moving_shapes.draw import draw, rounded
from ivid.sample import plan
from tests.sample import tiny


def scene_clip(frames, height, width, *, number=0):
  said = seeded_prompts(0, 1)[number].attributes
  scene = moving_shapes.make_scene(0, 0, aspect=width / height, said=said)
  times = np.arange(frames) * (moving_shapes.CLIP_SECONDS / frames)
  return said, rounded(draw(scene, times=times, height=height, width=width))


def test_psnr():
  real = np.zeros((2, 4, 4, 3), np.uint8)
  assert upsampling.psnr(real, real) == float("inf")
  assert upsampling.psnr(real + np.uint8(51), real) == pytest.approx(20 * np.log10(5))


def test_pooled_psnr_is_of_the_mean_error():
  assert upsampling.pooled([30.0, 30.0]) == pytest.approx(30.0)
  assert upsampling.pooled([float("inf"), 20.0]) == pytest.approx(20 + 10 * np.log10(2))


def test_interpolation_is_linear_in_time_and_smooth_in_space():
  small = np.stack([np.full((3, 4, 3), level, np.uint8) for level in (0, 100)])
  assert [int(frame[0, 0, 0]) for frame in upsampling.interpolated(small, 4, 6, 8, "bilinear")] == [0, 50, 100, 100]
  ramp = np.broadcast_to(np.arange(0, 80, 10, dtype=np.uint8)[None, None, :, None], (1, 4, 8, 3))
  large = upsampling.interpolated(ramp, 1, 8, 16, "bilinear")[0, 0, :, 0].astype(int)
  assert (np.diff(large)[1:-1] == 5).all() and large[0] == 0 and large[-1] == 70


def test_still_pixels_alone_count():
  real = np.zeros((3, 2, 2, 3), np.uint8)
  real[1, 0, 0] = 255  # moves
  made = real.copy()
  made[:, 1] += np.array([0, 3, 3], np.uint8)[:, None, None]
  # Between 0 and 1 two of three still pixels differ by 3; the same pixels between 1 and 2 by 0.
  assert upsampling.still_difference(made, real) == pytest.approx(3 * 2 / 6)


def test_what_a_stage_made_is_measured_against_the_ground_truth():
  """The stage's clip is off by 2 and by 6 in turn, so its still pixels flicker by 4."""
  said, real = scene_clip(32, 48, 80)
  _, small = scene_clip(16, 24, 40)
  off = np.where(np.arange(32) % 2, 6, 2)[:, None, None, None]
  made = np.where(real < 128, real + off, real - off).astype(np.uint8)
  found = upsampling.compare("ssr1", made, real, small, said)
  assert found.psnr["stage"] == pytest.approx(10 * np.log10(255**2 / ((2**2 + 6**2) / 2)), abs=1e-3)
  assert 10 < found.psnr["bilinear"] < found.psnr["bicubic"] + 3 < 60 and found.psnr["bilinear"] < found.psnr["stage"]
  assert found.still == pytest.approx(4) and found.right["stage"]["all"] and found.right["ground truth"]["all"]
  # At the input's times darker parts are lighter by 2, and brighter ones darker.
  assert 0 < found.colour["stage"]["mean"] < 2.1 and found.colour["stage"]["deviation"] > found.colour["ground truth"]["deviation"]
  np.testing.assert_array_equal(found.frames["stage"][0], made[0])
  np.testing.assert_array_equal(found.frames["ground truth"][0], real[0])


def test_warping_errors_of_stage_interpolation_and_ground_truth(tmp_path):
  said, real = scene_clip(32, 48, 80)
  _, small = scene_clip(16, 24, 40)
  scene = moving_shapes.make_scene(0, 0, aspect=5 / 3, said=said)
  made = np.roll(real, 1, axis=0)
  made[::2] = real[::2]  # every second frame is late
  found = upsampling.compare("tsr1", made, real, small, said, scene, fps=32 / moving_shapes.CLIP_SECONDS)
  assert found.warp["ground truth"] < 0.3 < found.warp["bilinear"] < 2 and found.warp["stage"] > 1
  (row,) = upsampling.write_report(tmp_path, [found], {})
  assert row["warp"] == found.warp and json.loads((tmp_path / upsampling.RESULTS).read_text())["stages"] == [row]
  head, line = upsampling.format_rows([row]).splitlines()
  at = head.index("warp/255")
  assert line[at : at + 8].strip() == f"{found.warp['stage']:.2f}"


def test_a_stage_that_shows_something_else_is_wrong_where_the_ground_truth_is_right():
  said, real = scene_clip(32, 48, 80)
  other, made = scene_clip(32, 48, 80, number=2)
  _, small = scene_clip(16, 24, 40)
  found = upsampling.compare("ssr1", made, real, small, said)
  (asked,), (shown, *_) = said.objects, other.objects
  assert asked.colour != shown.colour and not found.right["stage"]["colour"] and not found.right["stage"]["all"]
  assert found.right["ground truth"]["all"] and found.psnr["stage"] < found.psnr["bilinear"]


def test_a_folder_of_clips_through_a_cascade(tmp_path, capsys):
  cascade = tiny.write_tiny(tmp_path)
  _, real = scene_clip(18, 32, 48)  # no whole number of frames at the stages' rates
  write_clip(tmp_path / "clips" / "one.mp4", real, 8.0)
  options = [f"--cascade={cascade.folder}", "--metric=upsampling", f"--clips={tmp_path / 'clips'}", f"--out={tmp_path / 'eval'}"]
  assert main(["evaluate", *options]) == 0
  rows = json.loads((tmp_path / "eval" / upsampling.RESULTS).read_text())["stages"]
  assert [(row["stage"], row["clips"]) for row in rows] == [("tsr1", 1), ("ssr1", 1)]
  for row in rows:  # random weights are no match for interpolation
    assert 3 < row["psnr"]["stage"] < row["psnr"]["bilinear"] < 60 and "right" not in row
  assert "bilinear" in capsys.readouterr().out and (tmp_path / "eval" / upsampling.SHEET).stat().st_size > 1000
  assert main(["evaluate", *options, "--start_stage=base"]) == 1
  assert "start_stage=base has no input: expected one of tsr1, ssr1" in capsys.readouterr().err


def test_a_clip_that_is_too_long_for_the_memory_is_one_line(tmp_path, capsys, monkeypatch):
  cascade = tiny.write_tiny(tmp_path)
  write_clip(tmp_path / "clips" / "one.mp4", scene_clip(18, 32, 48)[1], 8.0)
  monkeypatch.setattr(plan, "MEMORY_SHARE", 1e-9)
  options = [f"--cascade={cascade.folder}", "--metric=upsampling", f"--clips={tmp_path / 'clips'}", f"--out={tmp_path / 'eval'}"]
  assert main(["evaluate", *options]) == 1
  assert "one.mp4 lasts longer than the" in capsys.readouterr().err
