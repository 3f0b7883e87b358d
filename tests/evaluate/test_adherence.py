"""The files that an evaluation leaves behind."""

import json

import numpy as np
import pytest
from PIL import Image

from ivid.evaluate import adherence as report
from ivid.evaluate.calibrate import make_clip, make_image
from ivid.evaluate.prompts import parse_prompt, seeded_prompts
from ivid.moving_shapes import grammar
from ivid.moving_shapes.scene import attributes, make_scene


@pytest.fixture(scope="module")
def results():
  """Four real clips with their own prompts, and one with a prompt of another colour."""
  found = []
  for index in range(4):
    scene = make_scene(0, index, two_objects=index == 3)
    said = attributes(scene)
    found.append(report.judge(parse_prompt(grammar.caption(said.objects, said.background)), make_clip(scene, 48)))
  wrong = found[0].prompt.text.replace(*(("red", "blue") if " red " in found[0].prompt.text else (_colour(found[0].prompt), "red")))
  return [*found, report.judge(parse_prompt(wrong), make_clip(make_scene(0, 0, two_objects=False), 48))]


def _colour(prompt):
  return grammar.COLOUR_NAMES[prompt.attributes.objects[0].colour]


def test_report(results, tmp_path):
  folder = tmp_path / "new"
  summary = report.write_report(folder, results, dict(clips="here"))
  record = json.loads((folder / report.RESULTS).read_text())
  assert record["summary"] == summary and record["clips"] == 5 and record["made_by"] == {"clips": "here"}
  assert record["results"][4]["right"]["colour"] is False and record["results"][0]["right"]["colour"] is True
  for name in (report.CONFUSION, report.FAILURES, report.FIRST):
    assert np.asarray(Image.open(folder / name)).std() > 5
  assert "all:" in report.format_summary(summary)


def test_no_failures_no_sheet(results, tmp_path):
  right = [result for result in results if result.right["all"]]
  assert right
  (tmp_path / report.FAILURES).write_text("of an earlier evaluation")
  report.write_report(tmp_path, right, {})
  assert not (tmp_path / report.FAILURES).exists()


def test_confusion_pairs_objects_by_colour(results):
  names, counts = report.confusion_matrices(results[:4])["colour"]
  assert counts.sum() == 5 and np.trace(counts) == 5  # one clip of two objects
  names, counts = report.confusion_matrices(results[4:])["colour"]
  assert counts.sum() == 1 and np.trace(counts) == 0


def test_report_of_images(tmp_path):
  results = []
  for prompt in seeded_prompts(3, 3, ("one", "two"), images=True):
    scene = make_scene(0, len(results), said=prompt.attributes)
    results.append(report.judge(prompt, make_image(scene, 24, np.random.default_rng(0))[None]))
  wrong = results[0].prompt.text.replace(*(("red", "blue") if " red " in results[0].prompt.text else (_colour(results[0].prompt), "red")))
  results.append(report.judge(parse_prompt(wrong, image=True), results[0].frames))
  summary = report.write_report(tmp_path, results, {})
  record = json.loads((tmp_path / report.RESULTS).read_text())
  assert record["images"] and [row["right"]["all"] for row in record["results"]] == [True] * 6 + [False]
  assert "motion" not in summary["one"] and summary["two"]["all"]["right"] == 3
  matrices = report.confusion_matrices(results)
  assert list(matrices) == ["size", "colour", "shape", "background"] and matrices["colour"][1].sum() == 10
  with Image.open(tmp_path / report.FIRST) as first, Image.open(tmp_path / report.FAILURES) as failures:
    assert first.width > 3 * 160 and first.height < 4 * first.width and np.asarray(failures).std() > 5


def test_a_kind_that_no_prompt_has_is_a_dash():
  prompt = parse_prompt("a large red circle on a black background", image=True)
  result = report.judge(prompt, make_image(make_scene(0, 0, said=prompt.attributes), 24, np.random.default_rng(0))[None])
  text = report.format_summary(report.summarize(["one"], [result.right]))
  assert text.splitlines()[1].split()[:10] == ["one", "1", *["100.0%"] * 7, "-"]
