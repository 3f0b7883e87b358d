"""Train one stage of a cascade; the same command again resumes.

ivid train --config=nano:base --workdir=runs/base
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Sequence

from absl import flags

from ivid.runs.cache import enable_compilation_cache
from ivid.config import config_json, define_config, load_config, parse_flags, split_overrides
from ivid.bin.hosts import define_hosts, join_hosts
from ivid.runs.workdir import local_path, shared_folder, write_status
from ivid.media.files import whole_file
from ivid.spec import convert
from ivid.spec.run import RunSpec
from ivid.spec.stage import StageSpec


def define_flags(values: flags.FlagValues) -> None:
  define_config(values)
  define_hosts(values)
  flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, samples.", flag_values=values)
  flags.DEFINE_float("max_minutes", 0.0, "Save and end after so many minutes; the same command goes on. 0: no limit.", flag_values=values)
  flags.DEFINE_bool("dry_run", False, "Print shapes, parameters, GFLOP and bytes per device, and stop.", flag_values=values)
  flags.DEFINE_string("json", None, "With --dry_run: write what it prints to this file as well.", flag_values=values)


def main(argv: Sequence[str]) -> None:
  plain, overrides = split_overrides(argv)
  values = parse_flags(plain, define_flags)
  config = load_config(values.config, overrides)
  run = convert.run_from_config(config)
  stage = run.cascade.stage(run.stage)
  enable_compilation_cache()
  if values.dry_run:
    _dry_run(run, stage, values.json)
    return
  if not values.workdir:
    raise ValueError("--workdir is missing: expected the folder of the run, such as runs/base")
  if values.max_minutes < 0:
    raise ValueError(f"--max_minutes={values.max_minutes:g}: expected a positive number, or 0 for no limit")
  workdir = local_path(values.workdir)
  join_hosts(values)
  with shared_folder(workdir, config_json(config)):
    from ivid.runs.training import fit  # after the flags are known to be right: starting JAX takes seconds
    from ivid.parallel.distributed import is_first
    from ivid.train.checkpoint import latest_step

    done = fit(run, stage, workdir, seconds=60.0 * values.max_minutes or math.inf)
    if is_first():
      write_status(workdir, done=done, step=latest_step(workdir))


def _dry_run(run: RunSpec, stage: StageSpec, json_path: str | None) -> None:
  """Prints what each phase would take; JSON has the phases in a list, or is the report of a run without any."""
  from ivid.parallel.mesh import make_mesh
  from ivid.train import phases
  from ivid.measure.dry_run import dry_run_report, format_report

  mesh, reports = make_mesh(run.mesh), []
  for phase in phases.remaining(phases.resolve(run.train), 0, run.train.total_steps):
    report = dry_run_report(stage, phase.train, mesh, max_tokens=run.cascade.text.max_tokens)
    phases.check_phases((phase,), stage)
    if phase.name:
      report |= dict(phase=phase.name, steps=phase.train.steps, first_step=phase.first_step, examples=phase.index_at(phase.end))
      print(f"phase       {phase.name}: steps {phase.first_step} to {phase.end}, {report['examples']:,} examples at its end")
    print(format_report(report))
    reports.append(report)
  if json_path:
    report = dict(phases=reports) if run.train.phases else reports[0]
    with whole_file(pathlib.Path(json_path)) as temporary:
      pathlib.Path(temporary).write_text(json.dumps(report, indent=1), encoding="utf-8")
