"""Train one stage of a cascade; the same command again resumes.

ivid train --config=nano:base --workdir=runs/base
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from ivid.bin.flags import define_config, define_fields, define_hosts, fields_of, join_hosts, parse_flags
from ivid.config import load_run
from ivid.spec.errors import UsageError
from ivid.spec.session import Session


def define_flags(values: flags.FlagValues) -> None:
  """Adds the flags of `ivid train`."""
  define_config(values)
  define_hosts(values)
  flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, samples.", flag_values=values)
  define_fields(values, Session)
  flags.DEFINE_bool("dry_run", False, "Print shapes, parameters, GFLOP and bytes per device, and stop.", flag_values=values)
  flags.DEFINE_string("json", None, "With --dry_run: also write the figures to this file.", flag_values=values)


def main(argv: Sequence[str]) -> None:
  """Trains as argv (program name first) says. Wrong input is a UserError before any work is done."""
  line = parse_flags(argv, define_flags, overrides=True)
  values = line.flags
  run = load_run(values.config, line.overrides)
  if values.dry_run:
    from ivid.measure.dry_run import dry_run

    dry_run(run, json_path=values.json)
    return
  if not values.workdir:
    raise UsageError("--workdir is missing: expected the folder of the run, such as runs/base")
  session = fields_of(values, Session)
  join_hosts(values)
  from ivid.runs.training import train  # after the flags are known to be right: starting JAX takes seconds

  train(run, values.workdir, **vars(session))
