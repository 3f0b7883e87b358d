"""Many prompts in shares: what is there stays, what is missing is made, and the bytes are those of one process."""

import csv
import json
import tracemalloc

import numpy as np
import pytest

from ivid import __main__ as command_line
from ivid.sample import groups, plan, programs, saving, share
from ivid.sample.outputs import Outputs
from ivid.sample.requests import Draw, make_request
from ivid.sample.runner import Clip
from ivid.sample.saving import Interrupted, save_clips
from ivid.sample.share import save_share
from ivid.spec.errors import UserError

PROMPTS = tuple(f"a red ball number {n}" for n in range(5))
QUICK = plan.Overrides(steps=1)


def request_of(cascade, prompts=PROMPTS, **options):
  draw = Draw(prompts, seed=3, count=2)
  return make_request(cascade, draw, **dict(dict(stop="tsr1", overrides=QUICK, batch_size=3), **options))


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(cascade, tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole")
  *clips, index = save_share(request_of(cascade), Outputs(folder, "png", clips=10), (0, 1))
  assert len(clips) == 10 and index == folder / "index.csv"
  return folder


def test_the_index(whole):
  rows = list(csv.DictReader((whole / "index.csv").open(newline="")))
  assert [(row["prompt"], row["seed"], row["sample"]) for row in rows] == [(p, "3", str(n)) for p in PROMPTS for n in (0, 1)]
  assert rows[3]["file"] == "00001-a-red-ball-number-1-s3-1.png"
  for row in rows:
    said = json.loads((whole / row["file"]).with_suffix(".json").read_text())
    assert (said["prompt"], said["seed"], str(said["sample"])) == (row["prompt"], 3, row["sample"])
  assert {path.name for path in whole.iterdir()} == {"run.json", "index.csv"} | {
    name for row in rows for name in (row["file"], row["file"].replace(".png", ".json"))
  }


def test_two_processes_make_what_one_makes(cascade, whole, tmp_path, capsys):
  """Batches of 3, 3, 3 and 1 of 10 samples: the first and the third for one process, the others for the other."""
  outputs = Outputs(tmp_path, "png", clips=10)
  assert len(list(save_share(request_of(cascade), outputs, (0, 2)))) == 6
  assert not (tmp_path / "index.csv").exists()
  assert "process 0/2: 6 of 10 clips are there; 4 of other processes are missing" in capsys.readouterr().err
  made = list(save_share(request_of(cascade), outputs, (1, 2)))
  assert len(made) == 4 + 1 and made[-1] == tmp_path / "index.csv" and contents(tmp_path) == contents(whole)


def test_a_restart_makes_what_is_missing(cascade, whole, tmp_path, monkeypatch, capsys):
  """Whatever a kill has left: a clip without its JSON, a JSON that is not this run's, nothing of a row, no index."""
  for name, data in contents(whole).items():
    (tmp_path / name).write_bytes(data)
  names = [row["file"] for row in csv.DictReader((whole / "index.csv").open(newline=""))]
  (tmp_path / names[1].replace(".png", ".json")).unlink()
  (tmp_path / names[2].replace(".png", ".json")).write_text("{}")
  (tmp_path / names[9]).unlink()
  (tmp_path / "index.csv").unlink()
  ran = []
  undisturbed = saving.save_clips
  monkeypatch.setattr(share, "save_clips", lambda request, *a, **b: ran.append(request.groups()) or undisturbed(request, *a, **b))
  paths = list(save_share(request_of(cascade), Outputs(tmp_path, "png", clips=10), (0, 1)))
  assert [path.name for path in paths] == [names[1], names[2], names[9], "index.csv"]
  assert ran == [[[0, 1, 2, 9]]]  # whole batches: the last bits of a clip may depend on its row
  assert contents(tmp_path) == contents(whole) and "10 of 10 clips, 7 of them there already" in capsys.readouterr().err
  assert [path.name for path in save_share(request_of(cascade), Outputs(tmp_path, "png", clips=10), (0, 1))] == ["index.csv"]
  assert ran[1:] == [[]]  # no group, so no weights are read


@pytest.mark.parametrize(
  ("change", "line"),
  [
    (dict(draw=Draw(PROMPTS, seed=4, count=2)), "seed=3, not 4: expected a new --out"),
    (dict(draw=Draw(PROMPTS[:4], seed=3, count=2)), "clips=10, not 8"),
    (dict(draw=Draw(PROMPTS[::-1], seed=3, count=2)), "prompts_sha256="),
    (dict(batch_size=2), "batch_size=3, not 2"),
    (dict(overrides=plan.Overrides(steps=2)), "stages.0.sampling.steps=1, not 2"),
    (dict(stop="base"), "stages.length=2, not 1"),
    (dict(suffix="mp4"), "suffix='png', not 'mp4'"),
  ],
)
def test_another_run_in_the_folder_is_refused(cascade, whole, change, line):
  before = contents(whole)
  request = make_request(
    cascade,
    change.get("draw", Draw(PROMPTS, seed=3, count=2)),
    stop=change.get("stop", "tsr1"),
    overrides=change.get("overrides", QUICK),
    batch_size=change.get("batch_size", 3),
  )
  with pytest.raises(UserError) as error:
    list(save_share(request, Outputs(whole, change.get("suffix", "png"), clips=10), (0, 1)))
  assert line in str(error.value) and "\n" not in str(error.value) and contents(whole) == before


def test_files_of_nobody_knows_which_run_are_refused(cascade, tmp_path):
  for name in ("index.csv", "00002-a-red-ball-number-2-s3-0.png"):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is there without a run.json, so of another run: expected a new --out"):
      list(save_share(request_of(cascade), Outputs(tmp_path, "png", clips=10), (0, 1)))
    assert contents(tmp_path) == {name: b"mine"}
    (tmp_path / name).unlink()


def test_groups_are_whole_batches():
  batches = groups.batches_of(10, 4)
  assert batches == [range(0, 4), range(4, 8), range(8, 10)]
  everything = range(10)
  assert groups.grouped(batches, everything, most=10) == [list(range(10))]
  assert groups.grouped(batches, everything, most=9) == [list(range(8)), [8, 9]]
  assert groups.grouped(batches, everything, most=1) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
  assert groups.grouped(batches, {1, 9}, most=6) == [[0, 1, 2, 3, 8, 9]]
  assert groups.grouped(batches, (), most=6) == []


def test_ten_thousand_prompts_of_the_papers_sizes(monkeypatch):
  """Some 20 clips of 128 x 192 x 320 lie between stages, and where nothing does, text alone counts."""
  from ivid.config import load_run

  monkeypatch.setattr(plan, "clip_memory", lambda: 10e9)
  cascade = load_run("nano:base").cascade
  assert 20 <= groups.most_held(cascade.text, cascade.stages, batch_size=1) <= 24
  assert groups.most_held(cascade.text, cascade.stages[:1], batch_size=1) > 5000
  monkeypatch.setattr(plan, "clip_memory", lambda: 1.0)
  assert groups.most_held(cascade.text, cascade.stages, batch_size=4) == 1


def test_a_plain_run_in_groups_makes_the_same_clips(cascade, whole, tmp_path, monkeypatch, capsys):
  request = request_of(cascade)
  kinds = [(programs.compiled_stage(spec), programs.compiled_sampling(spec, spec.sampling)) for spec in request.stages]
  steps = [programs.compiled_programs(*kind).step for kind in kinds]
  compiled = [len(step._ready) for step in steps]
  monkeypatch.setattr("ivid.sample.requests.most_held", lambda *a, **b: 8)
  paths = list(save_clips(request, Outputs(tmp_path, "png", clips=10)))
  assert [path.name for path in paths] == [f"a-red-ball-number-{n}-s3-{k}.png" for n in range(5) for k in (0, 1)]
  assert "group 2 of 2: 4 clips" in capsys.readouterr().err
  for path in paths:
    (same,) = whole.glob(f"*-{path.name}")
    assert path.read_bytes() == same.read_bytes()
  assert [len(step._ready) for step in steps] == compiled  # of batches of 3 and of 1, by the fixture: no group compiles again


def test_memory_does_not_grow_with_prompts(cascade, monkeypatch):
  """Clips of 256 kB that a stand-in for the stages makes."""

  def made(cascade, stages, samples, **options):
    for spec in stages:
      for n in range(len(samples)):
        yield Clip(spec, n, np.ones(1 << 18, np.uint8), 2, n % 2)

  def peak(count):
    request = request_of(cascade, tuple(map(str, range(count))), batch_size=2)
    tracemalloc.start()
    assert len(list(save_clips(request, None))) == 2 * count
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found

  monkeypatch.setattr("ivid.sample.requests.run_cascade", made)
  monkeypatch.setattr("ivid.sample.requests.most_held", lambda *a, **b: 8)
  monkeypatch.setattr("ivid.sample.saving.save_clip", lambda request, outputs, clip: clip.index)
  few, many = peak(4), peak(64)
  assert few > 8 << 18 and many < 1.3 * few


def test_ctrl_c_in_a_later_group(cascade, tmp_path, monkeypatch):
  monkeypatch.setattr("ivid.sample.requests.most_held", lambda *a, **b: 3)
  from ivid.sample import longer

  calls, undisturbed = [], longer.sample_stage

  def interrupted(stage, *args, **options):
    calls.append(stage.spec.name)
    if calls == ["base", "tsr1", "base", "tsr1"]:
      raise KeyboardInterrupt
    return undisturbed(stage, *args, **options)

  monkeypatch.setattr(longer, "sample_stage", interrupted)
  request = request_of(cascade)
  with pytest.raises(Interrupted) as caught:
    list(save_clips(request, Outputs(tmp_path, "png", clips=10)))
  assert [clip.index for clip in caught.value.clips] == [3, 4, 5] and caught.value.left == 4
  lines = saving.how_to_go_on(request, Outputs(tmp_path, "png", clips=10), caught.value, {})
  assert lines[0] == "4 clips were not begun: their prompts have to be given again" and len(lines) == 5
  calls.clear()
  with pytest.raises(Interrupted) as caught:
    list(save_share(request, Outputs(tmp_path / "share", "png", clips=10), (0, 1)))
  assert saving.how_to_go_on(request, Outputs(tmp_path, "png", clips=10), caught.value, {}) == [
    "interrupted; the same command makes what is missing"
  ]


@pytest.mark.parametrize(
  ("flags", "line"),
  [
    (["--process=3/2"], "--process=3/2: expected INDEX/COUNT with INDEX from 0 to COUNT - 1, such as 0/4"),
    (["--process=0/1", "--contact_sheet"], "--contact_sheet beside --process: expected one of them"),
    (["--process=0/1", "--overwrite"], "--overwrite beside --process: expected one of them"),
    (["--process=0/1", "--out=a.png"], "out=a.png is one file: expected a folder, in which a run can go on"),
    (["--size=500"], "size=500: expected HEIGHTxWIDTH such as 768x1280"),
    (["--size=32x48"], "size=32x48: stage base makes 8x12 alone, as its network attends over space or normalises whole frames"),
    (["--negative_prompt= "], "negative_prompt=' ' is blank: expected what the clip is not to show, or none"),
  ],
)
def test_wrong_flags_are_one_line(cascade, tmp_path, monkeypatch, capsys, flags, line):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr("ivid.runs.cache.enable_compilation_cache", lambda: None)
  assert command_line.main(["sample", f"--cascade={cascade.folder}", "--prompt=a red ball", "--batch_size=1", *flags]) in (1, 2)
  (said,) = capsys.readouterr().err.splitlines()
  assert said.removeprefix("ivid sample: error: ").startswith(line) and not list(tmp_path.iterdir())
