"""`ivid evaluate --table`: settings of cascades side by side, as the paper's Table 1 has them (Imagen Video, 2210.02303, section 3.4)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ivid.evaluate.judged import made_by
from ivid.evaluate.meters import METERS, Meter, Occasion
from ivid.evaluate.prompts import Prompt
from ivid.media.copies import user_cache
from ivid.media.files import write_whole
from ivid.media.places import local_path
from ivid.runs.bundling import open_named
from ivid.runs.cache import enable_compilation_cache
from ivid.runs.fvd import FEATURES
from ivid.sample.groups import batches_of
from ivid.sample.keys import Sample
from ivid.sample.loaded import Loaded
from ivid.sample.option_texts import read_option
from ivid.sample.plan import Overrides, plan_stages
from ivid.spec import formats
from ivid.spec.errors import UserError
from ivid.spec.files import read_mapping
from ivid.spec.real import RealClips
from ivid.spec.stage import StageSpec
from ivid.spec.table import TableRow, read_table
from ivid.train.progress import Progress
from ivid.weights.cascades import CascadeFolder

RESULTS, MARKDOWN, ROWS = "table.json", "table.md", "rows"
OPTIONS = ("guidance", "steps", "sampler", "threshold")  # of a row
HEAD = ("setting", "model", "guidance", "steps", "clips")
KEY_CHARACTERS = 16


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
  """A row that was checked: its cascade, stages and meters, and the file that it is kept in."""

  row: TableRow
  cascade: CascadeFolder
  stages: tuple[StageSpec, ...]
  meters: dict[str, Meter]
  described: dict[str, Any]
  path: pathlib.Path


def report_table(path: str | os.PathLike, out: str | os.PathLike, *, metrics: Sequence[str], **conditions: Any) -> None:
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
  planned = [_plan(row, shared, folder) for row in read_table(path)]
  enable_compilation_cache()
  done: list[dict[str, Any]] = []
  for one in planned:
    if one.path.is_file():
      print(f"row {one.row.name!r} is there already: {one.path}", file=sys.stderr, flush=True)
    else:
      write_whole(one.path, json.dumps(formats.stamped(_measured(one, shared)), indent=1) + "\n")
    # The name is no part of what it depends on.
    done.append(read_mapping(one.path, formats.Kind.REPORT) | dict(name=one.row.name))
    write_whole(folder / RESULTS, json.dumps(formats.stamped(dict(rows=done)), indent=1) + "\n")
    write_whole(folder / MARKDOWN, format_table(done))
  print(format_table(done), end="")
  print(folder / RESULTS, folder / MARKDOWN, file=sys.stderr)


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
      f"{row['seconds_per_clip']:.2f}",
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
  found = [_text(stage["sampling"], what) for stage in row["stages"]]
  return (
    found[0] if len(set(found)) == 1 else ", ".join(f"{stage['name']} {text}" for stage, text in zip(row["stages"], found, strict=True))
  )


def _text(sampling: dict[str, Any], what: str) -> str:
  if what != "guidance":
    return str(sampling[what])
  weight, low = sampling["guidance"]["weight"], sampling["guidance"]["low"]
  return f"{weight:g}" if low is None else f"oscillates {weight:g}, {low:g}"


def _plan(row: TableRow, conditions: Conditions, folder: pathlib.Path) -> _Planned:
  """The row, checked. UserError with its name."""
  try:
    cascade = open_named(row.cascade)
    overrides = Overrides(**{name: read_option(name, getattr(row, name)) for name in OPTIONS})
    stages = plan_stages(cascade, stop=row.stop_stage, overrides=overrides)
    wanted = conditions.wanted
    kept = local_path(wanted.features, "--features") if wanted.features else user_cache() / FEATURES
    occasion = Occasion(stages[-1].output, cascade.spec.aspect, conditions.prompts, conditions.seed, wanted, kept)
    meters = {name: METERS[name].make(occasion) for name in conditions.metrics}
    described = made_by(cascade, stages, seed=conditions.seed)
  except UserError as error:
    raise UserError(f"row {row.name!r}: {error}") from None
  described |= dict(weights=cascade.hashes(spec.name for spec in stages), batch=conditions.batch_size, real=wanted.real)
  texts = [(prompt.text, prompt.group) for prompt in conditions.prompts]
  key = described | dict(prompts=texts, metrics=conditions.metrics, real_clips=wanted.real_clips, device=jax.devices()[0].device_kind)
  digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:KEY_CHARACTERS]
  return _Planned(row, cascade, stages, meters, described, folder / ROWS / f"{digest}.json")


def _measured(one: _Planned, conditions: Conditions) -> dict[str, Any]:
  """Everything that is said of a row; its clips are seen one batch after the other, and not kept."""
  prompts, size = conditions.prompts, min(conditions.batch_size, len(conditions.prompts))
  samples = [Sample(prompt.text, conditions.seed, 0) for prompt in prompts]
  loaded = Loaded(one.cascade, one.stages)
  loaded.warm_up(samples[:size])
  seconds = []
  with Progress(total=len(prompts), unit="clip", name=one.row.name) as progress:
    for batch in batches_of(len(samples), size):
      filled = [samples[n % len(samples)] for n in range(batch.start, batch.start + size)]  # one program serves all
      started = time.perf_counter()
      clips = loaded.make(filled)
      seconds.append((time.perf_counter() - started) / size)
      for n, clip in zip(batch, clips, strict=False):
        for meter in one.meters.values():
          meter.add(prompts[n], clip)
      progress.update(batch.stop)
  return one.described | dict(
    name=one.row.name,
    models=[_model(one, spec) for spec in _told_apart(one.stages)],
    clips=len(prompts),
    size=str(one.stages[-1].output),
    batch=size,
    seconds_per_clip=float(np.median(seconds)),
    device=jax.devices()[0].device_kind,
    metrics={name: meter.figures() for name, meter in one.meters.items()},
  )


def _told_apart(stages: Sequence[StageSpec]) -> Sequence[StageSpec]:
  """One stage where all are teachers, or all students; else each."""
  return stages[:1] if len({spec.student is None for spec in stages}) == 1 else stages


def _model(one: _Planned, spec: StageSpec) -> str:
  kind = "teacher" if spec.student is None else "student"
  return kind if len(_told_apart(one.stages)) == 1 else f"{spec.name} {kind}"
