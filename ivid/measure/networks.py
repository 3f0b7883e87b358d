"""The speed of the networks compared with a matrix product, timed in turn, for `ivid bench unet`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ivid.flops import count_flops, count_params
from ivid.measure.dry_run import evaluation_args, evaluation_flops
from ivid.measure.timing import MATRIX, interleaved
from ivid.programs import Program
from ivid.spec.run import RunSpec
from ivid.spec.stage import StageSpec
from ivid.spec.view import training_view
from ivid.stage import Stage

TOKENS = 64


def bench_stage(run: RunSpec, *, batch_size: int, repeats: int) -> dict[str, Any]:
  """Times one evaluation, and one loss with its gradient, in turn with the matrix product.

  Fully convolutional stages are timed on their training crop, the others on whole clips.
  """
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
    # A backward pass has two products for each one of the forward pass: one for the inputs and one for the weights.
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


def format_header() -> str:
  return f"{'stage':6} {'params':>10} {'GFLOP/eval':>10} {'timed on':>14} {'fwd':>7} {'fwd+bwd':>7} {'matmul':>7}  ratios (GFLOP/s)"


def format_row(row: dict[str, Any]) -> str:
  rates = row["gflops"]
  return (
    f"{row['stage']:6} {row['parameters']:>10,} {row['gflop_per_evaluation']:>10.2f} {row['timed_on']:>14} {rates['forward']:>7.1f} "
    f"{rates['forward_backward']:>7.1f} {rates['matmul']:>7.1f}  {row['ratio_forward']:.2f} {row['ratio_forward_backward']:.2f}"
  )


def _timed_view(run: RunSpec) -> StageSpec:
  spec = run.cascade.stage(run.stage)
  return training_view(spec, run.train) if spec.unet.fully_convolutional else spec


def _fill(leaf: Any) -> Any:
  if jnp.issubdtype(leaf.dtype, jnp.floating):
    return 0.1 * jax.random.normal(jax.random.key(len(leaf.shape)), leaf.shape).astype(leaf.dtype) + jnp.asarray(0.5, leaf.dtype)
  return jnp.ones(leaf.shape, leaf.dtype)
