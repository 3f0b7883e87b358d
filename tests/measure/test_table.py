"""`ivid evaluate --table`: rows of a tiny cascade, with a cheap metric in place of adherence, which its clips are too small for."""

import json

import numpy as np
import pytest

from ivid.__main__ import main
from ivid.evaluate import meters
from ivid.evaluate.prompts import parse_prompt
from ivid.measure import table
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.scene import make_scene
from ivid.sample.keys import Sample
from ivid.sample.loaded import Loaded
from ivid.sample.plan import plan_stages
from ivid.sample.runner import run_cascade
from tests.sample import tiny

SEEN = []  # prompts and clips that were measured


class Brightness:
  """The mean of all pixels; fails at a prompt that says so."""

  fail_at = None

  def __init__(self, occasion):
    self.means = []

  def add(self, prompt, clip):
    if Brightness.fail_at == len(SEEN):
      raise SystemError
    SEEN.append((prompt.text, clip))
    self.means.append(clip.mean())

  def figures(self):
    return dict(mean=float(np.mean(self.means)))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
  return tiny.write_tiny(tmp_path_factory.mktemp("cascade"))


@pytest.fixture
def evaluate(monkeypatch, tmp_path, cascade):
  """Calls the command with a list of rows."""
  kind = meters.MeterKind("mean", lambda found: f"{found['mean']:.2f}", Brightness)
  monkeypatch.setitem(meters.METERS, "adherence", kind)
  monkeypatch.setattr(Brightness, "fail_at", None)
  SEEN.clear()

  def call(*rows, options=()):
    path = tmp_path / "rows.json"
    whole = [dict(cascade=str(cascade.folder), stop_stage="base", steps=2) | row for row in rows]
    path.write_text(json.dumps(dict(rows=whole)))
    return main(["evaluate", f"--table={path}", "--prompts=3", "--groups=one", "--batch_size=2", f"--out={tmp_path / 'out'}", *options])

  return call


@pytest.mark.filterwarnings("ignore:text of .* truncated")
def test_rows_are_measured_once_and_compared(evaluate, cascade, tmp_path, capsys):
  rows = dict(name="constant", guidance=3), dict(name="oscillating", guidance="3:1", steps="base=3")
  Brightness.fail_at = 4  # in the second row
  with pytest.raises(SystemError):
    evaluate(*rows)
  assert (tmp_path / "out" / "table.md").read_text().count("\n| ") == 1 + 1  # below the head: the rule and one row
  Brightness.fail_at = None
  del SEEN[3:]
  assert evaluate(*rows) == 0
  shown = capsys.readouterr()
  assert "row 'constant' is there already" in shown.err and len(SEEN) == 6
  lines = shown.out.splitlines()
  assert lines[0] == "| setting | model | guidance | steps | clips | mean | s per clip |"
  cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:4]]
  assert [row[:5] for row in cells] == [["constant", "teacher", "3", "2", "3"], ["oscillating", "teacher", "oscillates 3, 1", "3", "3"]]
  means = [np.mean([clip.mean() for _, clip in SEEN[n : n + 3]]) for n in (0, 3)]
  assert [row[5] for row in cells] == [f"{mean:.2f}" for mean in means] and all(float(row[6]) >= 0 for row in cells)
  found = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
  assert [row["metrics"]["adherence"]["mean"] for row in found] == pytest.approx(means)
  assert all(row["seconds_per_clip"] > 0 and row["batch"] == 2 and row["stages"][0]["name"] == "base" for row in found)
  assert shown.out == (tmp_path / "out" / "table.md").read_text()
  # The clips are those of `ivid sample`.
  stages = plan_stages(cascade, stop="base", overrides=table.Overrides(steps=2, guidance=3.0))
  same = [clip.frames for clip in run_cascade(cascade, stages, [Sample(text, 0, 0) for text, _ in SEEN[:2]], batch_size=2, quiet=True)]
  assert max(np.abs(a.astype(int) - b).max() for a, (_, b) in zip(same, SEEN, strict=False)) <= 1
  # Another name is the same row; another seed is another one.
  assert evaluate(rows[0] | dict(name="w = 3")) == 0 and len(SEEN) == 6 and "| w = 3 | teacher" in capsys.readouterr().out


def test_ground_truth_is_drawn_at_the_size_of_the_cascades_clips(evaluate, cascade, tmp_path, monkeypatch, capsys):
  """No cascade is sampled here: its row is as it was kept."""
  measured = table._measured
  monkeypatch.setattr(table, "_measured", lambda one, shared: kept.get(one.row.name) or measured(one, shared))
  seconds = dict(seconds_per_clip=1.5, device="cpu", batch=2, clips=3, models=["teacher"], metrics={})
  kept = {"made": dict(name="made", stages=[], **seconds | dict(metrics=dict(adherence=dict(mean=1.0))))}
  assert evaluate(dict(name="drawn", cascade="moving_shapes", stop_stage="", steps=""), dict(name="made")) == 0
  first, second = capsys.readouterr().out.splitlines()[2:4]
  mean = np.mean([clip.mean() for _, clip in SEEN])
  assert first == f"| drawn | ground truth | - | - | 3 | {mean:.2f} | - |" and second.endswith(" | 1.00 | 1.50 |")
  assert [clip.shape for _, clip in SEEN] == [tiny.BASE.array] * 3
  prompt = parse_prompt(SEEN[1][0])
  scene = make_scene(0, 1, aspect=cascade.spec.aspect, said=prompt.attributes)
  want = rounded(draw(scene, times=np.arange(2) / tiny.BASE.fps, height=tiny.BASE.height, width=tiny.BASE.width))
  np.testing.assert_array_equal(SEEN[1][1], want)


@pytest.mark.slow
def test_a_loaded_cascade_makes_the_clips_of_a_run(cascade):
  stages = plan_stages(cascade)
  samples = [Sample(text, 1, n) for text in ("a", "b") for n in range(2)]
  loaded = Loaded(cascade, stages)
  loaded.warm_up(samples)
  want = [clip.frames for clip in run_cascade(cascade, stages, samples, batch_size=4, quiet=True) if clip.stage is stages[-1]]
  np.testing.assert_allclose(loaded.make(samples).astype(int), np.stack(want), atol=1)


@pytest.mark.parametrize(
  ("row", "message"),
  [
    (dict(name="a", guidanse=3), "unknown key 'rows[0].guidanse'"),
    (dict(name="a", steps=0), "row 'a': steps=0: expected"),
    (dict(name="a", guidance="3:x"), "row 'a': guidance=x: expected a number"),
    (dict(name="a", stop_stage="bass"), "row 'a': unknown stage 'bass'"),
    (dict(name="a", cascade="nowhere"), "row 'a': no cascade 'nowhere'"),
    (dict(name="a", sampler="ddpm"), "row 'a': unknown sampler 'ddpm'"),
    (dict(name=["a"]), "rows[0].name"),
    (dict(name="a", cascade="moving_shapes"), "has rows of moving_shapes alone: expected one of a cascade"),
  ],
)
def test_a_row_that_cannot_be_is_one_line(evaluate, capsys, tmp_path, row, message):
  assert evaluate(row) == 1
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1 and message in lines[0] and not (tmp_path / "out").exists(), lines


def test_a_kept_row_that_is_damaged_is_one_line(evaluate, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(table, "_measured", lambda one, shared: dict(models=["teacher"]))
  assert evaluate(dict(name="a")) == 1
  (path,) = (tmp_path / "out" / "rows").iterdir()
  assert capsys.readouterr().err.splitlines() == [
    f"ivid evaluate: error: {path} is damaged: it has no stages; remove it, and the same command makes it again"
  ]
  path.write_text("{")
  assert evaluate(dict(name="a")) == 1
  assert f"{path} is no JSON" in capsys.readouterr().err.splitlines()[-1]


def test_drawn_clips_take_no_steps(evaluate, capsys):
  assert evaluate(dict(name="a", cascade="moving_shapes"), dict(name="b")) == 1
  assert "row 'a': steps=2 beside cascade=moving_shapes: expected none, as nothing is sampled" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("contents", "options", "message"),
  [
    (None, [], "no such file"),
    ("{", [], "is no JSON"),
    ('{"rows": []}', [], "has 0 rows: expected 1 to 1000"),
    ('{"rows": [{"name": "a"}, {"name": "a"}]}', [], "two rows are named 'a'"),
    ('{"rows": [{"name": "a"}]}', ["--metrics=upsampling"], "--table with metric upsampling: expected adherence, fvd"),
    ('{"rows": [{"name": "a"}]}', ["--cascade=nano"], "--cascade beside --table="),
    (
      '{"rows": [{"name": "a", "stop_stage": "base"}]}',
      ["--metrics=fvd", "--prompts=1"],
      "row 'a': the set of prompts has 4 clips: expected 8 or more",
    ),
  ],
)
def test_bad_input_is_one_line(capsys, tmp_path, contents, options, message):
  path = tmp_path / "rows.json"
  if contents is not None:
    path.write_text(contents)
  assert main(["evaluate", f"--table={path}", f"--out={tmp_path / 'out'}", *options]) in (1, 2)
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1 and message in lines[0] and not (tmp_path / "out").exists(), lines
