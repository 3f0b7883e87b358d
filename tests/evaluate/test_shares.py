"""An evaluation in shares: what is there stays, whoever is last writes the report, and it is that of one process."""

import numpy as np
import pytest

from ivid.evaluate import adherence, upsampling
from ivid.evaluate.calibrate import make_clip
from ivid.evaluate.judged import from_folder
from ivid.evaluate.shares import PARTS, Work, make_share
from ivid.media.clips import write_clip
from ivid.moving_shapes import grammar
from ivid.moving_shapes.scene import attributes, make_scene
from ivid.spec.errors import UserError


def files(folder):
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def clips(tmp_path):
  """Three clips, the last of which shows something else than it says."""
  for n in range(3):
    scene = make_scene(1, n, two_objects=False)
    said = attributes(make_scene(1, 5, two_objects=False) if n == 2 else scene)
    write_clip(tmp_path / f"clips/{n}.png", make_clip(scene, 48), 3.0, metadata=dict(prompt=grammar.caption(said.objects, said.background)))
  return tmp_path / "clips"


def report(clips, out, process):
  judging = from_folder(clips, None)
  results = adherence.judge_share(judging, out, process)
  return results and adherence.write_report(out, results, judging.made_by)


def test_shares_give_the_report_of_one_process(clips, tmp_path, capsys):
  whole = report(clips, tmp_path / "one", None)
  assert report(clips, tmp_path / "two", (0, 2)) is None and not list((tmp_path / "two").glob("*.*"))
  assert "process 0/2: 2 of 3 clips are there; 1 of other processes are missing" in capsys.readouterr().err
  assert report(clips, tmp_path / "two", (1, 2)) == whole
  one, two = files(tmp_path / "one"), files(tmp_path / "two")
  assert {name: data for name, data in two.items() if not name.startswith(PARTS)} == one and len(two) == len(one) + 3
  lost = sorted(tmp_path.glob(f"two/{PARTS}/*/*.npz"))[1]
  lost.unlink()  # as if process 1 had been killed
  capsys.readouterr()
  assert report(clips, tmp_path / "two", (0, 2)) is None
  assert "2 of them there already" in capsys.readouterr().err
  assert report(clips, tmp_path / "two", (1, 2)) == whole and files(tmp_path / "two") == two
  lost.write_bytes(lost.read_bytes()[:-100])
  with pytest.raises(UserError, match=r"000001\.npz is damaged: .*; remove it"):
    report(clips, tmp_path / "two", (0, 2))


def test_another_evaluation_in_the_folder_has_other_files(tmp_path):
  made = []

  def make(numbers):
    for n in numbers:
      made.append(n)
      yield n

  keep, restore = lambda n: ({"n": n}, {}), lambda n, kept: kept[0]["n"]
  run = lambda key, process: make_share(Work(key, 5, 2, make), tmp_path, process, keep, restore)  # noqa: E731
  assert run({"seed": 0}, (1, 2)) is None and made == [2, 3]  # a batch belongs to one process
  assert run({"seed": 1}, (0, 1)) == [0, 1, 2, 3, 4] and made == [2, 3, 0, 1, 2, 3, 4]
  assert run({"seed": 0}, (0, 2)) == [0, 1, 2, 3, 4] and made[7:] == [0, 1, 4]
  assert run({"seed": 0}, (8, 9)) == [0, 1, 2, 3, 4] and len(made) == 10  # more processes than batches


def test_comparisons_come_back_as_they_were(tmp_path):
  rng = np.random.default_rng(0)
  clip = lambda frames: rng.integers(0, 255, (frames, 24, 40, 3), np.uint8)  # noqa: E731
  real = clip(8)
  made = [
    upsampling.compare("tsr1", clip(8), real, real[::2], None),
    upsampling.compare("tsr1", real, real, real[::2], None, make_scene(0, 0), fps=3.0),
  ]
  (back,) = make_share(Work({}, 1, 1, lambda _: iter([made])), tmp_path, (0, 1), upsampling.keep, lambda _, kept: upsampling.restore(kept))
  for a, b in zip(made, back, strict=True):
    assert (a.stage, a.psnr, a.still, a.colour, a.warp, a.right, list(a.frames)) == (
      b.stage,
      b.psnr,
      b.still,
      b.colour,
      b.warp,
      b.right,
      list(b.frames),
    )
    for way, frames in a.frames.items():
      np.testing.assert_array_equal(frames, b.frames[way])
