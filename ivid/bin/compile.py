"""Compile a stage's program for a TPU slice that need not exist: memory, arithmetic, traffic between chips, estimated time.

ivid compile --config=imagen_video:base --topology=v5p:4x4x8
ivid compile --config=imagen_video:ssr3 --topology=v5p:2x2x1 --program=sample --fit
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from absl import flags

from ivid.bin.flags import define_config, parse_flags
from ivid.config import load_run
from ivid.media.files import write_whole
from ivid.spec import formats
from ivid.spec.errors import UsageError, UserError, nearest
from ivid.spec.run import RunMeshSpec

PROGRAMS = ("train", "distill", "sample")


def define_flags(values: flags.FlagValues) -> None:
  """Adds the flags of `ivid compile`."""
  define_config(values)
  flags.DEFINE_string("topology", None, "TPU slice, such as v5p:4x4x8, v5e:4x4, v4:2x2x4, v6e:4x8.", flag_values=values)
  flags.DEFINE_string("program", "train", "train, distill, or sample (one step on one whole clip).", flag_values=values)
  flags.DEFINE_bool("fit", False, "Only find the memory, which is several times faster.", flag_values=values)
  flags.DEFINE_string("json", None, "Write the figures to this file as well.", flag_values=values)


def main(argv: Sequence[str]) -> None:
  """Compiles as argv (program name first) says. A program that does not fit the slice is a UserError, after its figures."""
  line = parse_flags(argv, define_flags, overrides=True)
  values = line.flags
  run = load_run(values.config, line.overrides)
  if values.program not in PROGRAMS:
    raise UserError(f"--program={values.program}: {nearest(values.program, PROGRAMS)}")
  if not values.topology:
    raise UsageError("--topology is missing: expected a TPU slice such as v5p:4x4x8")
  from ivid.measure.topology import parse_slice, set_environment

  found = parse_slice(values.topology)
  set_environment(found)  # before anything starts JAX's backends
  from ivid.measure.compiling import compile_report, format_report, refuse_too_small

  if values.program == "sample" and not any(o.startswith("mesh.") for o in line.overrides):
    run = dataclasses.replace(run, mesh=RunMeshSpec(data=1, frames=-1))  # one clip, with a run of frames on each chip
  report = compile_report(run, found, program=values.program, fit=values.fit)
  print(format_report(report))
  if values.json:
    write_whole(values.json, json.dumps(formats.stamped(report), indent=1) + "\n")
  refuse_too_small(report, found)
