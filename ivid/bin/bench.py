"""Speed of the networks and of embedding captions against a matrix product timed in the same run, of sampling, and of training's input.

ivid bench unet --config=nano
ivid bench unet --config=nano --stages=base,ssr1 --repeats=7 --json=bench.json
ivid bench sample --cascade=nano --steps=2
ivid bench text --encoders=t5_v1_1_small,byt5_small --batch_size=64
ivid bench data --config=nano:base
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import flags

from ivid.bin.flags import define_config, parse_flags
from ivid.bin.options import MESH, define_options, read_options
from ivid.config import load_run
from ivid.media.files import write_whole
from ivid.spec import formats
from ivid.spec.errors import UsageError, nearest

Table = tuple[str, Iterable[dict[str, Any]], Callable[[dict[str, Any]], str]]  # header, rows as they are measured, how one is shown


def define_flags(values: flags.FlagValues) -> None:
  define_config(values)
  flags.DEFINE_list("stages", [], "unet: stages to time; all by default.", flag_values=values)
  flags.DEFINE_integer("repeats", 5, "unet, text, data: number of timed runs; the median counts.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("batch_size", None, "unet: clips (or crops) per run (1). text: captions (64).", lower_bound=1, flag_values=values)
  flags.DEFINE_list("encoders", ["t5_v1_1_small"], "text: published sizes to time, with random weights.", flag_values=values)
  flags.DEFINE_string("cascade", "nano", "sample: folder of a cascade, or the name of one that ships.", flag_values=values)
  define_options(values, ("steps", "tile"))
  flags.DEFINE_string("mesh", "", f"sample: {MESH}", flag_values=values)
  for name in ("start_stage", "stop_stage"):
    flags.DEFINE_string(name, "", f"sample: like --{name} of ivid sample.", flag_values=values)
  flags.DEFINE_string("json", None, "Write the table to this file as well.", flag_values=values)


def main(argv: Sequence[str]) -> None:
  """Measures as argv (program name first) says, and prints one row of figures per subject."""
  line = parse_flags(argv, define_flags, overrides=True, words=True)
  subject = line.words[0] if line.words else ""
  if subject not in SUBJECTS or len(line.words) > 1:
    raise UsageError(f"what to bench? {' '.join(line.words)!r}: {nearest(subject, SUBJECTS)}")
  if line.overrides and subject != "data":
    raise UsageError(f"--config.{line.overrides[0]}: expected for `ivid bench data` alone")
  from ivid.runs.cache import enable_compilation_cache  # starts JAX

  enable_compilation_cache()
  header, made, shown = SUBJECTS[subject](line.flags, line.overrides)
  print(header)
  rows = []
  for row in made:
    rows.append(row)
    print(shown(row), flush=True)
  if line.flags.json:
    write_whole(line.flags.json, json.dumps(formats.stamped({"rows": rows}), indent=1))


def _networks(values: flags.FlagValues, overrides: Sequence[str]) -> Table:
  del overrides  # none
  from ivid.measure import networks

  name = values.config or "nano"
  runs = [load_run(f"{name}:{stage}") for stage in values.stages or load_run(name).cascade.stage_names]
  rows = (networks.bench_stage(run, batch_size=values.batch_size or 1, repeats=values.repeats) for run in runs)
  return networks.format_header(), rows, networks.format_row


def _sampling(values: flags.FlagValues, overrides: Sequence[str]) -> Table:
  del overrides  # none
  from ivid.measure import sampling
  from ivid.sample import plan
  from ivid.weights.opening import find_cascade

  cascade, options = find_cascade(values.cascade), read_options(values, ("steps", "tile"))
  stages = plan.plan_stages(cascade, start=values.start_stage, stop=values.stop_stage, overrides=options)
  rows = sampling.bench_sampling(cascade, stages, tile=options.tile, mesh=values.mesh)
  return sampling.format_header(), rows, sampling.format_row


def _text(values: flags.FlagValues, overrides: Sequence[str]) -> Table:
  del overrides  # none
  from ivid.measure import text
  from ivid.spec.t5 import t5_spec

  for name in values.encoders:
    t5_spec(name)  # fails before the first one is timed
  rows = text.bench_text(values.encoders, batch_size=values.batch_size or 64, repeats=values.repeats)
  return text.format_header(), rows, text.format_row


def _data(values: flags.FlagValues, overrides: Sequence[str]) -> Table:
  from ivid.measure import inputs

  run = load_run(values.config or "nano:base", overrides)
  return inputs.format_header(), inputs.bench_data(run, repeats=values.repeats), inputs.format_row


SUBJECTS = {"unet": _networks, "sample": _sampling, "text": _text, "data": _data}
