"""Collects the EMA weights of trained stages into a cascade folder that `ivid sample` runs.

  ivid bundle --config=nano --out=DIR --text=nano base=runs/base tsr1=runs/tsr1

A folder that exists keeps the stages that are not given. With --ema=0.08 the weights are an average of that relative width over the
run, made from its snapshots (train.ema_widths).
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

from absl import flags

from ivid.bin.flags import define_config, parse_flags
from ivid.config import load_run
from ivid.spec.errors import UsageError, UserError, nearest


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
  run = load_run(values.config, line.overrides)
  known = run.cascade.stage_names
  for name, workdir in workdirs.items():
    if name not in known:
      raise UserError(f"unknown stage {name!r} in {name}={workdir}: {nearest(name, known)}")
  from ivid.sample.cascades import write_cascade
  from ivid.text.encoder import load_encoder
  from ivid.weights.averages import load_average
  from ivid.weights.ema import load_ema
  from ivid.weights.opening import text_encoder_folder

  folder = text_encoder_folder(values.text or run.data.text_encoder)
  load = load_ema if values.ema is None else functools.partial(load_average, width=values.ema)
  stages = {name: load(workdir) for name, workdir in workdirs.items()}
  digest = load_encoder(folder).hash
  spec = run.cascade.with_text_encoder(digest)
  cascade = write_cascade(values.out, spec, stages, folder)
  for name in known:
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
