"""Plots: a run's metrics.jsonl, confusion matrices."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from ivid.media.files import whole_file
from ivid.spec.errors import UserError
from ivid.spec.paths import read_lines

STEP = "step"
PANEL_INCHES = (8.0, 3.0)
CELL_INCHES = 0.32  # side of a cell in a confusion matrix
LOG_RATIO = 20  # a panel whose largest value is so many times its smallest gets a logarithmic axis

Series = dict[str, tuple[list[float], list[float]]]  # per metric: steps and values


def plot_metrics(jsonl_path: str | os.PathLike[str], png_path: str | os.PathLike[str]) -> None:
  """Draws every number of metrics.jsonl (lines {"step": n, "train/loss": x, ...}) over the step, with one panel per name before the '/'.

  Raises:
    UserError: there is no such file, it has no metrics, or the folder cannot be written.
  """
  groups = read_metrics(jsonl_path)
  from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
  from matplotlib.figure import Figure

  width, height = PANEL_INCHES
  figure = Figure(figsize=(width, height * len(groups)), layout="constrained")
  FigureCanvasAgg(figure)
  panels = figure.subplots(len(groups), squeeze=False)[:, 0]
  for panel, (group, series) in zip(panels, groups.items(), strict=True):
    for name, (steps, values) in series.items():
      panel.plot(steps, values, label=name, linewidth=1, marker="." if len(steps) < 50 else None)
    values = [v for _, column in series.values() for v in column]
    if min(values) > 0 and max(values) / min(values) > LOG_RATIO:
      panel.set_yscale("log")
    panel.set_title(group)
    panel.set_xlabel(STEP)
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")
  with whole_file(png_path) as temporary:
    figure.savefig(temporary, format="png", dpi=100)


def plot_curves(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], png_path: str | os.PathLike[str], *, x: str, y: str) -> None:
  """Draws curves side by side, each over its own x values, with a common y axis.

  Args:
    curves: per title, x values and y values.
    x, y: names of the axes.

  Raises:
    UserError: no curve, or unwritable folder.
  """
  if not curves:
    raise UserError("no curve to draw: expected one or more")
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(PANEL_INCHES[1] * len(curves), PANEL_INCHES[1]), layout="constrained")
  FigureCanvasAgg(figure)
  panels = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
  for panel, (title, (places, values)) in zip(panels, curves.items(), strict=True):
    panel.plot(places, values, linewidth=1, marker=".")
    panel.set_title(title)
    panel.set_xlabel(x)
    panel.grid(alpha=0.3)
  panels[0].set_ylabel(y)
  with whole_file(png_path) as temporary:
    figure.savefig(temporary, format="png", dpi=100)


def plot_confusion(matrices: Mapping[str, tuple[Sequence[str], np.ndarray]], png_path: str | os.PathLike[str]) -> None:
  """Draws confusion matrices side by side: rows what was asked, columns what was seen, darkness the share of the row, counts in cells.

  Args:
    matrices: per title, the names of rows and columns, and the counts [names, names].

  Raises:
    UserError: no matrix, or unwritable folder.
  """
  if not matrices:
    raise UserError("no confusion matrix to draw: expected one or more")
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  sizes = [len(names) for names, _ in matrices.values()]
  side = CELL_INCHES * (max(sizes) + 6)  # room for the names
  figure = Figure(figsize=(sum(CELL_INCHES * (size + 6) for size in sizes), side), layout="constrained")
  FigureCanvasAgg(figure)
  panels = figure.subplots(1, len(sizes), squeeze=False, width_ratios=[size + 6 for size in sizes])[0]
  for panel, (title, (names, counts)) in zip(panels, matrices.items(), strict=True):
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    panel.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    panel.set_title(title)
    panel.set_xticks(range(len(names)), names, rotation=90, fontsize="x-small")
    panel.set_yticks(range(len(names)), names, fontsize="x-small")
    panel.set_xlabel("seen")
    panel.set_ylabel("asked")
    for row, column in zip(*np.nonzero(counts), strict=True):
      shade = "white" if share[row, column] > 0.5 else "black"
      panel.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize="xx-small", color=shade)
  with whole_file(png_path) as temporary:
    figure.savefig(temporary, format="png", dpi=100, bbox_inches="tight")  # titles and names stay in the picture


def read_metrics(jsonl_path: str | os.PathLike[str]) -> dict[str, Series]:
  """Metrics by group (the name before the last '/', or the whole name), then by the rest of the name. Truncated lines are skipped.

  Raises:
    UserError: no such file, or no metrics in it.
  """
  groups: dict[str, Series] = {}
  for line in read_lines(jsonl_path, "metrics", "a run's metrics.jsonl"):
    try:
      row = json.loads(line)
    except json.JSONDecodeError:  # the last line of a killed process
      continue
    if not isinstance(row, dict) or STEP not in row:
      continue
    for key, value in row.items():
      if key == STEP or isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        continue
      group, _, name = key.rpartition("/")
      steps, values = groups.setdefault(group or key, {}).setdefault(name, ([], []))
      steps.append(row[STEP])
      values.append(value)
  if not groups:
    raise UserError(f"no metrics in {jsonl_path}: expected lines such as {{'step': 1, 'train/loss': 0.5}}")
  return groups
