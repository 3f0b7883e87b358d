"""Plots of metrics."""

import json

import numpy as np
import pytest
from PIL import Image

from ivid.media.plot import plot_confusion, plot_metrics, read_metrics


def _write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "train/lo')
  return path


def test_groups_by_prefix(tmp_path):
  rows = [{"step": s, "train/loss": 1 / s, "train/norm": 2.0} for s in (1, 2)] + [
    {"step": 2, "eval/loss": 0.5, "note": "x", "fps": float("nan")}
  ]
  assert read_metrics(_write(tmp_path / "m.jsonl", rows)) == {
    "train": {"loss": ([1, 2], [1.0, 0.5]), "norm": ([1, 2], [2.0, 2.0])},
    "eval": {"loss": ([2], [0.5])},
  }


def test_a_panel_each(tmp_path):
  one = [{"step": s, "train/loss": 100 / s**2} for s in range(1, 60)]
  sizes = []
  for i, rows in enumerate([one, one + [{"step": 5, "eval/loss": 0.5}]]):
    plot_metrics(_write(tmp_path / "m.jsonl", rows), tmp_path / f"{i}.png")
    picture = np.asarray(Image.open(tmp_path / f"{i}.png").convert("RGB"))
    assert picture.std() > 1
    sizes.append(picture.shape)
  assert sizes[1][0] == 2 * sizes[0][0] and sizes[1][1] == sizes[0][1]


def test_nothing_to_plot(tmp_path):
  with pytest.raises(ValueError, match="no metrics at"):
    plot_metrics(tmp_path / "m.jsonl", tmp_path / "a.png")
  (tmp_path / "m.jsonl").write_text("hello\n")
  with pytest.raises(ValueError, match="no metrics in"):
    plot_metrics(tmp_path / "m.jsonl", tmp_path / "a.png")
  assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_confusion_picture(tmp_path):
  path = tmp_path / "confusion.png"
  counts = np.array([[9, 1], [0, 5]])
  plot_confusion({"size": (("small", "large"), counts), "again": (("small", "large"), counts)}, path)
  width, height = Image.open(path).size
  assert width > height > 100
  with pytest.raises(ValueError, match="no confusion matrix"):
    plot_confusion({}, path)
