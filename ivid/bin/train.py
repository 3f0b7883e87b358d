"""Train one stage of a cascade; the same command again resumes.

ivid train --config=nano:base --workdir=runs/base
"""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
from collections.abc import Sequence
from typing import IO

from absl import flags

from ivid.bin.cache import enable_compilation_cache
from ivid.bin.config import define_config, load_config, parse_flags, split_overrides
from ivid.bin.hosts import define_hosts, join_hosts, shared_folder
from ivid.spec import convert
from ivid.spec.run import RunSpec
from ivid.spec.stage import StageSpec


def define_flags(values: flags.FlagValues) -> None:
  define_config(values)
  define_hosts(values)
  flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, samples.", flag_values=values)
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
  workdir = local_path(values.workdir)
  join_hosts(values)
  with shared_folder(workdir, config.to_json_best_effort(indent=1)):
    from ivid.bin.fit import fit  # after the flags are known to be right: starting JAX takes seconds

    fit(run, stage, workdir)


def local_path(workdir: str) -> pathlib.Path:
  """The work folder; ValueError for the address of a bucket, which would become a folder named `gs:`."""
  scheme, found, name = workdir.partition("://")
  if found:
    raise ValueError(f"--workdir={workdir}: expected a path, such as /{scheme}/{name}, where the bucket is mounted (launch/README.md)")
  return pathlib.Path(workdir)


def claim(workdir: pathlib.Path, config_json: str) -> IO:
  """Makes the work folder and records the config and the process id (to pause a background run: kill -STOP).

  Returns:
    An open file whose lock keeps other trainers out of the folder; the system lets go of it however this process ends.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = open(workdir / ".lock", "a", encoding="utf-8")
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      lock.close()
      pid = (workdir / "pid").read_text(encoding="utf-8")
      raise ValueError(f"--workdir={workdir} is in use by process {pid}: expected a folder that no other trainer writes") from None
    for name, text in (("config.json", config_json), ("pid", str(os.getpid()))):
      temporary = workdir / f".{name}.{os.getpid()}"
      temporary.write_text(text, encoding="utf-8")
      os.replace(temporary, workdir / name)
  except OSError as error:
    raise ValueError(f"--workdir={workdir} is not writable: {error.strerror}") from None
  return lock


def _dry_run(run: RunSpec, stage: StageSpec, json_path: str | None) -> None:
  from ivid.parallel.mesh import make_mesh
  from ivid.train.report import dry_run_report, format_report

  report = dry_run_report(stage, run.train, make_mesh(run.mesh), max_tokens=run.cascade.text.max_tokens)
  print(format_report(report))
  if json_path:
    temporary = f"{json_path}.{os.getpid()}"
    pathlib.Path(temporary).write_text(json.dumps(report, indent=1), encoding="utf-8")
    os.replace(temporary, json_path)
