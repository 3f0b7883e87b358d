"""Distil a trained stage: guidance into one evaluation per step, then repeated halvings of the steps; the same command resumes.

  ivid distill --config=nano:base --teacher=runs/base --workdir=runs/base_distilled

Every student has its own folder in the work folder, such as ddim_0008, which `ivid bundle` takes like that of any run. report.md and the
pictures beside it compare each with its teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from ivid.bin.flags import define_config, define_fields, define_hosts, fields_of, join_hosts, parse_flags
from ivid.config import load_run
from ivid.spec.errors import UsageError
from ivid.spec.session import Watch


def define_flags(values: flags.FlagValues) -> None:
  """Adds the flags of `ivid distill`."""
  define_config(values)
  define_hosts(values)
  define_fields(values, Watch)
  flags.DEFINE_string(
    "teacher", None, "Work folder of the stage's training, or a cascade: a folder, or one that ships.", flag_values=values
  )
  flags.DEFINE_string("workdir", None, "Folder of the distillation, with one folder per student and the report.", flag_values=values)


def main(argv: Sequence[str]) -> None:
  """Distils as argv (program name first) says. Wrong input is a UserError before any work is done."""
  line = parse_flags(argv, define_flags, overrides=True)
  values = line.flags
  run = load_run(values.config, line.overrides)
  for name in ("teacher", "workdir"):
    if not values[name].value:
      raise UsageError(f"--{name} is missing: expected a folder, such as --{name}=runs/{run.stage}")
  watch = fields_of(values, Watch)
  join_hosts(values)
  from ivid.runs.distill import distill  # after the flags are known to be right: starting JAX takes seconds

  distill(run, values.teacher, values.workdir, **vars(watch))
