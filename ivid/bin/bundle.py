"""Collects the EMA weights of trained stages into a cascade folder that `ivid sample` runs.

  ivid bundle --config=nano --out=DIR --text=nano base=runs/base tsr1=runs/tsr1

A folder that exists keeps the stages that are not given. With --ema=0.08 the weights are an average of that relative width over the
run, made from its snapshots (train.ema_widths).
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from ivid.bin.flags import define_config, parse_flags
from ivid.config import load_run
from ivid.spec.errors import UsageError


def define_flags(values: flags.FlagValues) -> None:
  """Adds the flags of `ivid bundle`."""
  define_config(values)
  flags.DEFINE_string("out", "", "Folder of the cascade, new or to be updated.", flag_values=values)
  flags.DEFINE_string(
    "text", "", "Folder of the text encoder, or the name of a shipped cascade (default: the config's).", flag_values=values
  )
  flags.DEFINE_float("ema", None, "Relative width of the average, such as 0.08 (default: the run's EMA).", flag_values=values)


def main(argv: Sequence[str]) -> None:
  """Bundles `STAGE=WORKDIR` arguments (argv: program name first). Wrong input is a UserError, and changes nothing."""
  line = parse_flags(argv, define_flags, overrides=True, words=True)
  values, workdirs = line.flags, _workdirs(line.words)
  if not values.out:
    raise UsageError("--out is missing: expected the cascade's folder")
  from ivid.runs.bundling import bundle

  cascade = bundle(load_run(values.config, line.overrides), workdirs, values.out, text=values.text, ema=values.ema)
  for name in cascade.spec.stage_names:
    step = f"step {cascade.check(name).step}" if cascade.trained(name) else "not trained"
    print(f"{pathlib.Path(values.out) / name}: {step}")


def _workdirs(arguments: Sequence[str]) -> dict[str, str]:
  found = {}
  for argument in arguments:
    name, equals, workdir = argument.partition("=")
    if not (name and equals and workdir):
      raise UsageError(f"{argument!r}: expected STAGE=WORKDIR, such as base=runs/base")
    if name in found:
      raise UsageError(f"stage {name} is given twice, as {found[name]} and {workdir}")
    found[name] = workdir
  if not found:
    raise UsageError("no stages: expected STAGE=WORKDIR, such as base=runs/base")
  return found
