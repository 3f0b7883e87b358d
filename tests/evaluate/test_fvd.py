"""`ivid evaluate --metrics=fvd`: with a small network in I3D's place, and with I3D on a public clip and on clips that get worse."""

import json

import numpy as np
import pytest

from ivid.__main__ import main
from ivid.evaluate import calibrate_fvd, fvd
from ivid.evaluate.clip_sets import real_clips
from ivid.media.clips import write_clip
from ivid.spec.clip import ClipShape
from tests.evaluate.test_i3d import installed

SHAPE = ClipShape(16, 24, 40, 3.0)


def write_drawn(folder, count, shape=SHAPE, *, seed=5):
  drawn = real_clips("moving_shapes", shape, count=count, aspect=shape.width / shape.height, seed=seed)
  for n, clip in enumerate(drawn.clips(range(count))):
    write_clip(folder / f"{n:03}.mp4", clip, shape.fps, crf=1)


@pytest.mark.usefixtures("small_network")
def test_a_folders_clips_against_drawn_ones_and_against_another_folder(tmp_path, capsys):
  write_drawn(tmp_path / "clips", 8)
  options = ["--metrics=fvd", f"--clips={tmp_path / 'clips'}", f"--out={tmp_path / 'eval'}", f"--features={tmp_path / 'features'}"]
  assert main(["evaluate", *options, "--frame_layers=Mixed_5c", "--real_clips=12"]) == 0
  shown = capsys.readouterr().out.splitlines()
  assert shown[1].split()[0] == "fvd" and shown[1].split()[-2:] == ["8", "12"]
  assert "16 frames of 24x40, squeezed to 224x224 (bilinear), layer Logits of I3D Kinetics-400" in shown[2]
  assert any(line.startswith("frames Mixed_5c") for line in shown)
  found = json.loads((tmp_path / "eval" / fvd.RESULTS).read_text())
  assert found["real"]["name"] == "moving_shapes" and [one["metric"] for one in found["scores"]] == ["fvd", "frames Mixed_5c"]
  assert found["scores"][0]["value"] > 1
  assert len(list((tmp_path / "features").iterdir())) == 4  # two sets by two conventions
  assert main(["evaluate", *options, f"--real={tmp_path / 'clips'}"]) == 0
  itself = json.loads((tmp_path / "eval" / fvd.RESULTS).read_text())["scores"][0]
  assert itself["value"] < 1e-6 and itself["real_clips"] == 8


@pytest.mark.usefixtures("small_network")
def test_shares_give_the_report_of_one_process(tmp_path, capsys):
  """Two processes that share nothing but the folder of the report; the second one to come finds all features there."""
  write_drawn(tmp_path / "clips", 9)
  options = ["evaluate", "--metrics=fvd", f"--clips={tmp_path / 'clips'}", "--real_clips=10"]
  assert main([*options, f"--out={tmp_path / 'alone'}", f"--features={tmp_path / 'features'}"]) == 0
  alone = capsys.readouterr().out
  shares = [*options, f"--out={tmp_path / 'eval'}"]
  assert main([*shares, "--process=1/2"]) == 0
  shown = capsys.readouterr()
  assert "process 1/2: its features are there; those of 11 clips of other processes are missing" in shown.err
  assert not shown.out and not (tmp_path / "eval" / fvd.RESULTS).exists()
  assert main([*shares, "--process=0/2"]) == 0
  assert capsys.readouterr().out == alone
  assert (tmp_path / "eval" / fvd.RESULTS).read_text() == (tmp_path / "alone" / fvd.RESULTS).read_text()


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize(
  ("clips", "options", "message"),
  [
    (5, [], "has 5 clips: expected 8 or more"),
    (8, ["--real_clips=7"], "moving_shapes has 7 clips: expected 8 or more"),
    (8, ["--real_clips=-1"], "--real_clips=-1: expected 0 or more"),
    (8, ["--real=moving_shape"], "real='moving_shape': expected moving_shapes"),
    (8, ["--frame_layers=Mixed_5d"], "layer 'Mixed_5d' of I3D: did you mean 'Mixed_5c'?"),
    (8, ["--stop_stage=base"], "--clips beside --cascade or --stop_stage"),
    (8, ["--start_stage=tsr1"], "--start_stage=tsr1 with metric fvd: expected --metrics=upsampling"),
    (8, ["--features=gs://b/x"], "--features=gs://b/x: expected a path, such as /gs/b/x"),
    (0, [], "no folder"),
  ],
)
def test_bad_input_is_one_line(tmp_path, capsys, clips, options, message):
  for n in range(clips):
    write_clip(tmp_path / "clips" / f"{n}.mp4", np.zeros((9, 16, 16, 3), np.uint8), 3.0)
  options = [f"--features={tmp_path / 'features'}", *options]
  assert main(["evaluate", "--metrics=fvd", f"--clips={tmp_path / 'clips'}", f"--out={tmp_path / 'eval'}", *options]) in (1, 2)
  lines = capsys.readouterr().err.strip().splitlines()
  if message == "no folder":
    message = "is no folder: expected one of clips"
  assert len(lines) == 1 and message in lines[0], lines
  assert not (tmp_path / "features").exists() and not (tmp_path / "eval").exists()


def test_what_is_done_to_clips_grows_with_its_level():
  drawn = real_clips("moving_shapes", SHAPE, count=8, aspect=5 / 3)
  clips = list(drawn.clips(range(8)))
  for kind, levels in calibrate_fvd.LEVELS.items():
    off = []
    for level in levels:
      made = list(calibrate_fvd.worse(drawn, kind, level).clips(range(8)))
      off.append(np.mean([np.square(a.astype(float) - b).mean() for a, b in zip(made, clips, strict=True)]))
      if kind in (calibrate_fvd.SHUFFLED, calibrate_fvd.SWAPPED):  # the same frames in another order
        assert all(sorted(map(bytes, a)) == sorted(map(bytes, b)) for a, b in zip(made, clips, strict=True))
    assert 0 < off[0] < off[1] < off[2], (kind, off)
  changed = [not np.array_equal(calibrate_fvd.distorted(clips[n], "swapped halves", 0.25, number=n), clips[n]) for n in range(8)]
  assert sum(changed) == 2


@installed
@pytest.mark.slow
def test_fvd_grows_with_noise_blur_and_order(tmp_path):
  levels = {kind: of[1:] for kind, of in calibrate_fvd.LEVELS.items()}
  found = calibrate_fvd.calibrate(8, tmp_path, levels=levels)
  assert found["itself"] < 1e-3
  for kind, points in found["curves"].items():
    low, high = points.values()
    assert 1 < low < high, (kind, points)
