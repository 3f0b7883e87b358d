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

from ivid.runs.cache import enable_compilation_cache
from ivid.config import define_config, find_cascade, load_run, parse_flags, split_overrides
from ivid.measure.timing import MATRIX, interleaved
from ivid.media.files import whole_file
from ivid.spec.errors import nearest
from ivid.spec.run import RunSpec

SUBJECTS = ("unet", "sample", "text", "data")
TOKENS = 64


def define_flags(values: flags.FlagValues) -> None:
  define_config(values)
  flags.DEFINE_list("stages", [], "unet: stages to time; all by default.", flag_values=values)
  flags.DEFINE_integer("repeats", 5, "unet, text, data: timed runs of each; the median counts.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("batch_size", None, "unet: clips (or crops) a run (1). text: captions (64).", lower_bound=1, flag_values=values)
  flags.DEFINE_list("encoders", ["t5_v1_1_small"], "text: published sizes to time, with random weights.", flag_values=values)
  flags.DEFINE_string("cascade", "nano", "sample: folder of a cascade, or the name of one that ships.", flag_values=values)
  for name in ("steps", "start_stage", "stop_stage", "tile"):
    flags.DEFINE_string(name, "", f"sample: as --{name} of ivid sample.", flag_values=values)
  flags.DEFINE_string("json", None, "Write the table to this file as well.", flag_values=values)


def main(argv: Sequence[str]) -> None:
  argv, overrides = split_overrides(argv)
  values = parse_flags(argv, define_flags)
  subject = next((arg for arg in argv[1:] if not arg.startswith("-")), "")
  if subject not in SUBJECTS:
    raise ValueError(f"what to bench? {subject!r}: {nearest(subject, SUBJECTS)}")
  enable_compilation_cache()
  if overrides and subject != "data":
    raise ValueError(f"--config.{overrides[0]}: expected for `ivid bench data` alone")
  header, made, shown = _data(values, overrides) if subject == "data" else SHOWN[subject](values)
  print(header)
  rows = []
  for row in made:
    rows.append(row)
    print(shown(row), flush=True)
  if values.json:
    with whole_file(values.json) as path:
      path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


Rows = Iterable[dict[str, Any]]


def _networks(values: flags.FlagValues) -> tuple[str, Rows, Callable[[dict[str, Any]], str]]:
  name = values.config or "nano"
  runs = [load_run(f"{name}:{stage}") for stage in values.stages or load_run(name).cascade.stage_names]
  header = f"{'stage':6} {'params':>10} {'GFLOP/eval':>10} {'timed on':>14} {'fwd':>7} {'fwd+bwd':>7} {'matmul':>7}  ratios (GFLOP/s)"
  return header, (bench_stage(run, batch_size=values.batch_size or 1, repeats=values.repeats) for run in runs), format_row


def _sampling(values: flags.FlagValues) -> tuple[str, Rows, Callable[[dict[str, Any]], str]]:
  from ivid.measure import sampling as bench_sample
  from ivid.sample import plan

  cascade = find_cascade(values.cascade)
  stages = plan.plan_stages(cascade, start=values.start_stage, stop=values.stop_stage, overrides=plan.Overrides(steps=values.steps))
  tiles = plan.plan_tiles(stages, values.tile)
  return bench_sample.format_header(), bench_sample.bench_sampling(cascade, stages, tiles=tiles), bench_sample.format_row


def _text(values: flags.FlagValues) -> tuple[str, Rows, Callable[[dict[str, Any]], str]]:
  from ivid.measure import text as bench_text
  from ivid.spec.t5 import t5_spec

  for name in values.encoders:
    t5_spec(name)  # refuses before the first is timed
  rows = bench_text.bench_text(values.encoders, batch_size=values.batch_size or 64, repeats=values.repeats)
  return bench_text.format_header(), rows, bench_text.format_row


def _data(values: flags.FlagValues, overrides: Sequence[str]) -> tuple[str, Rows, Callable[[dict[str, Any]], str]]:
  from ivid.measure import inputs as bench_data

  run = load_run(values.config or "nano:base", overrides)
  return bench_data.format_header(), bench_data.bench_data(run, repeats=values.repeats), bench_data.format_row


SHOWN = {"unet": _networks, "sample": _sampling, "text": _text}


def bench_stage(run: RunSpec, *, batch_size: int, repeats: int) -> dict[str, Any]:
  """Times one evaluation and one loss with its gradient, each in turn with the matrix product.

  Fully convolutional stages are timed on their training crop, the others on whole clips.
  """
  import jax
  import jax.numpy as jnp

  from ivid.flops import count_flops, count_params
  from ivid.programs import Program
  from ivid.stage import Stage
  from ivid.measure.dry_run import evaluation_args, evaluation_flops

  spec = run.cascade.stage(run.stage)
  whole = Stage(spec)
  stage = Stage(_timed_view(run))
  args = jax.tree.map(_fill, evaluation_args(stage, batch_size=batch_size, max_tokens=TOKENS))

  def loss(params: Any, *inputs: Any) -> jax.Array:
    return jnp.mean(jnp.square(stage.predict(params, *inputs)))

  matrix = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX), jnp.float32)
  product = Program("matmul", lambda a: a @ a).jit()
  runs = {
    "forward": (Program("forward", stage.predict).jit(), args),
    "forward_backward": (Program("forward_backward", jax.value_and_grad(loss)).jit(), args),
    "matmul": (product, (matrix,)),
  }
  seconds = interleaved({key: lambda f=f, a=a: jax.block_until_ready(f(*a)) for key, (f, a) in runs.items()}, repeats=repeats)
  work = count_flops(stage.predict, *args)
  rates = {
    "forward": work / seconds["forward"] / 1e9,
    # A backward pass is twice the forward's products: one for the inputs, one for the weights.
    "forward_backward": 3 * work / seconds["forward_backward"] / 1e9,
    "matmul": 2 * MATRIX**3 / seconds["matmul"] / 1e9,
  }
  return {
    "stage": spec.name,
    "parameters": count_params(args[0]),
    "gflop_per_evaluation": evaluation_flops(whole) / 1e9,
    "timed_on": "x".join(map(str, (batch_size, *stage.spec.output.array[:3]))),
    "gflops": rates,
    "ratio_forward": rates["forward"] / rates["matmul"],
    "ratio_forward_backward": rates["forward_backward"] / rates["matmul"],
  }


def format_row(row: dict[str, Any]) -> str:
  rates = row["gflops"]
  return (
    f"{row['stage']:6} {row['parameters']:>10,} {row['gflop_per_evaluation']:>10.2f} {row['timed_on']:>14} {rates['forward']:>7.1f} "
    f"{rates['forward_backward']:>7.1f} {rates['matmul']:>7.1f}  {row['ratio_forward']:.2f} {row['ratio_forward_backward']:.2f}"
  )


def _timed_view(run: RunSpec) -> Any:
  from ivid.train.view import training_view

  spec = run.cascade.stage(run.stage)
  return training_view(spec, run.train) if spec.unet.fully_convolutional else spec


def _fill(leaf: Any) -> Any:
  import jax
  import jax.numpy as jnp

  if jnp.issubdtype(leaf.dtype, jnp.floating):
    return 0.1 * jax.random.normal(jax.random.key(len(leaf.shape)), leaf.shape).astype(leaf.dtype) + jnp.asarray(0.5, leaf.dtype)
  return jnp.ones(leaf.shape, leaf.dtype)
