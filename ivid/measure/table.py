"""`ivid evaluate --table`: settings of cascades side by side, as the paper's Table 1 has them (Imagen Video, 2210.02303, section 3.4)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ivid.evaluate.judged import made_by
from ivid.evaluate.meters import METERS, Meter, Occasion
from ivid.evaluate.prompts import Prompt
from ivid.media.copies import user_cache
from ivid.media.files import write_whole
from ivid.media.places import local_path
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.scene import make_scene
from ivid.runs.bundling import open_named
from ivid.runs.cache import enable_compilation_cache
from ivid.runs.fvd import FEATURES
from ivid.sample.groups import batches_of
from ivid.sample.keys import Sample
from ivid.sample.loaded import Loaded
from ivid.sample.option_texts import read_option
from ivid.sample.plan import Overrides, plan_stages
from ivid.spec import formats
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.files import read_mapping
from ivid.spec.real import RealClips
from ivid.spec.stage import StageSpec
from ivid.spec.table import DRAWN, TableRow, read_table
from ivid.train.progress import Progress
from ivid.weights.cascades import CascadeFolder

RESULTS, MARKDOWN, ROWS = "table.json", "table.md", "rows"
OPTIONS = ("guidance", "steps", "sampler", "threshold")  # of a row
HEAD = ("setting", "model", "guidance", "steps", "clips")
FIELDS = ("models", "stages", "clips", "batch", "seconds_per_clip", "device", "metrics")  # of a row, that the table shows
KEY_CHARACTERS = 16

_Opened = tuple[CascadeFolder, tuple[StageSpec, ...]]


@dataclasses.dataclass(frozen=True)
class Conditions:
  """What all rows have in common: metrics (of METERS), prompts, the seed of prompts and samples, clips computed together, real clips."""

  metrics: tuple[str, ...]
  prompts: Sequence[Prompt]
  seed: int
  batch_size: int
  wanted: RealClips


@dataclasses.dataclass(frozen=True)
class _Planned:
  """A row that was checked: its cascade (None: it is drawn), stages, the shape of its clips, meters, and the file that it is kept in."""

  row: TableRow
  cascade: CascadeFolder | None
  stages: tuple[StageSpec, ...]
  shape: ClipShape
  aspect: float
  meters: dict[str, Meter]
  described: dict[str, Any]
  path: pathlib.Path


def report_table(path: str | os.PathLike[str], out: str | os.PathLike[str], *, metrics: Sequence[str], **conditions: Any) -> None:
  """Measures each row of a file (ivid.spec.table) that is not there yet, writes RESULTS and MARKDOWN behind each, and prints the table.

  Args: metrics, conditions: fields of Conditions.

  A row is kept in ROWS under what it depends on, weights included; so the same command goes on at the first row that is missing.

  Raises:
    UserError: before anything is computed: as read_table, a metric without meter, and with the row's name what a row cannot be.
  """
  folder = local_path(out, "--out")
  shared = Conditions(tuple(dict.fromkeys(metrics)), **conditions)
  for metric in shared.metrics:
    if metric not in METERS:
      raise UserError(f"--table with metric {metric}: expected {', '.join(METERS)}, which are of clips of prompts")
  rows = read_table(path)
  opened = {row.name: _opened(row) for row in rows if row.cascade != DRAWN}
  if not opened:
    raise UserError(f"{path} has rows of {DRAWN} alone: expected one of a cascade, whose clips say at what size to draw")
  sized = next(iter(opened.values()))
  planned = [_plan(row, opened.get(row.name), sized, shared, folder) for row in rows]
  enable_compilation_cache()
  done: list[dict[str, Any]] = []
  for one in planned:
    if one.path.is_file():
      print(f"row {one.row.name!r} is there already: {one.path}", file=sys.stderr, flush=True)
    else:
      write_whole(one.path, json.dumps(formats.stamped(_measured(one, shared)), indent=1) + "\n")
    done.append(_kept(one))
    write_whole(folder / RESULTS, json.dumps(formats.stamped(dict(rows=done)), indent=1) + "\n")
    write_whole(folder / MARKDOWN, format_table(done))
  print(format_table(done), end="")
  print(folder / RESULTS, folder / MARKDOWN, file=sys.stderr)


def _kept(one: _Planned) -> dict[str, Any]:
  """What the row's file says, under the name that the row has now: it is no part of what a row depends on. UserError if it is damaged."""
  row = read_mapping(one.path, formats.Kind.REPORT) | dict(name=one.row.name)
  if missing := [name for name in FIELDS if name not in row]:
    raise UserError(f"{one.path} is damaged: it has no {missing[0]}; remove it, and the same command makes it again")
  return row


def format_table(rows: Sequence[dict[str, Any]]) -> str:
  """The rows in Markdown, with a line on how they came about."""
  metrics = list(rows[0]["metrics"])
  head = [*HEAD, *(METERS[name].column for name in metrics), "s per clip"]
  cells = [
    [
      row["name"],
      ", ".join(row["models"]),
      _by_stage(row, "guidance"),
      _by_stage(row, "steps"),
      str(row["clips"]),
      *(METERS[name].shown(row["metrics"][name]) for name in metrics),
      "-" if row["seconds_per_clip"] is None else f"{row['seconds_per_clip']:.2f}",
    ]
    for row in rows
  ]
  lines = [head, ["---"] * len(head), *cells]
  text = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
  devices = " and ".join(sorted({row["device"] for row in rows}))
  batches = " and ".join(map(str, sorted({row["batch"] for row in rows})))
  return f"{text}\nSeconds: median over batches of {batches}, from prompt to pixels, everything loaded and compiled, on {devices}.\n"


def _by_stage(row: dict[str, Any], what: str) -> str:
  """A value for each stage, or one for all of them."""
  found = {stage["name"]: _text(stage["sampling"], what) for stage in row["stages"]}
  if len(set(found.values())) > 1:
    return ", ".join(f"{name} {text}" for name, text in found.items())
  return next(iter(found.values()), "-")


def _text(sampling: dict[str, Any], what: str) -> str:
  if what != "guidance":
    return str(sampling[what])
  weight, low = sampling["guidance"]["weight"], sampling["guidance"]["low"]
  return f"{weight:g}" if low is None else f"oscillates {weight:g}, {low:g}"


def _opened(row: TableRow) -> _Opened:
  """The row's cascade and its stages, as they are to be sampled. UserError with the row's name."""
  try:
    cascade = open_named(row.cascade)
    overrides = Overrides(**{name: read_option(name, getattr(row, name)) for name in OPTIONS})
    return cascade, plan_stages(cascade, stop=row.stop_stage, overrides=overrides)
  except UserError as error:
    raise UserError(f"row {row.name!r}: {error}") from None


def _plan(row: TableRow, opened: _Opened | None, sized: _Opened, shared: Conditions, folder: pathlib.Path) -> _Planned:
  """The row, checked; one that is drawn (`opened` None) has the clips' size of `sized`. UserError with its name."""
  cascade, stages = opened or (None, ())
  shape, aspect, wanted = (stages or sized[1])[-1].output, (cascade or sized[0]).spec.aspect, shared.wanted
  described = dict(cascade=DRAWN, seed=shared.seed, stages=[]) if cascade is None else made_by(cascade, stages, seed=shared.seed)
  described |= dict(weights=cascade.hashes(spec.name for spec in stages) if cascade else [], batch=shared.batch_size, real=wanted.real)
  try:
    if given := [name for name in (*OPTIONS, "stop_stage") if cascade is None and getattr(row, name)]:
      raise UserError(f"{given[0]}={getattr(row, given[0])} beside cascade={DRAWN}: expected none, as nothing is sampled")
    kept = local_path(wanted.features, "--features") if wanted.features else user_cache() / FEATURES
    occasion = Occasion(shape, aspect, shared.prompts, shared.seed, wanted, kept)
    meters = {name: METERS[name].make(occasion) for name in shared.metrics}
  except UserError as error:
    raise UserError(f"row {row.name!r}: {error}") from None
  texts = [(prompt.text, prompt.group) for prompt in shared.prompts]
  key = described | dict(prompts=texts, metrics=shared.metrics, real_clips=wanted.real_clips, device=jax.devices()[0].device_kind)
  key["size"] = f"{shape}, {aspect:g}"
  digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:KEY_CHARACTERS]
  return _Planned(row, cascade, stages, shape, aspect, meters, described, folder / ROWS / f"{digest}.json")


def _measured(one: _Planned, shared: Conditions) -> dict[str, Any]:
  """Everything that is said of a row; its clips are seen one batch after the other, and not kept."""
  prompts, size = shared.prompts, min(shared.batch_size, len(shared.prompts))
  make, seconds = _maker(one, shared, size), []
  with Progress(total=len(prompts), unit="clip", name=one.row.name) as progress:
    for batch in batches_of(len(prompts), size):
      started = time.perf_counter()
      clips = make([n % len(prompts) for n in range(batch.start, batch.start + size)])  # filled up: one program serves all
      seconds.append((time.perf_counter() - started) / size)
      for n, clip in zip(batch, clips, strict=False):
        for meter in one.meters.values():
          meter.add(prompts[n], clip)
      progress.update(batch.stop)
  return one.described | dict(
    name=one.row.name,
    models=[_model(one, spec) for spec in _told_apart(one.stages)] or ["ground truth"],
    clips=len(prompts),
    size=str(one.shape),
    batch=size,
    seconds_per_clip=float(np.median(seconds)) if one.cascade else None,
    device=jax.devices()[0].device_kind,
    metrics={name: meter.figures() for name, meter in one.meters.items()},
  )


def _maker(one: _Planned, shared: Conditions, size: int) -> Callable[[Sequence[int]], np.ndarray]:
  """What makes the clips [B, T, H, W, 3] uint8 of the prompts with these numbers, `size` of them at a time, with everything loaded."""
  if one.cascade is None:
    times = np.arange(one.shape.frames) / one.shape.fps
    scene = lambda n: make_scene(shared.seed, n, aspect=one.aspect, said=shared.prompts[n].attributes)  # noqa: E731
    drawn = lambda n: rounded(draw(scene(n), times=times, height=one.shape.height, width=one.shape.width))  # noqa: E731
    return lambda numbers: np.stack([drawn(n) for n in numbers])
  samples = [Sample(prompt.text, shared.seed, 0) for prompt in shared.prompts]
  loaded = Loaded(one.cascade, one.stages)
  loaded.warm_up(samples[:size])
  return lambda numbers: loaded.make([samples[n] for n in numbers])


def _told_apart(stages: Sequence[StageSpec]) -> Sequence[StageSpec]:
  """One stage where all are teachers, or all students; else each."""
  return stages[:1] if len({spec.student is None for spec in stages}) == 1 else stages


def _model(one: _Planned, spec: StageSpec) -> str:
  kind = "teacher" if spec.student is None else "student"
  return kind if len(_told_apart(one.stages)) == 1 else f"{spec.name} {kind}"
