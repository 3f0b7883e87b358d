"""Speed of embedding captions, for `ivid bench text`."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ivid.measure.timing import MATRIX, interleaved
from ivid.programs import Program
from ivid.spec.cascade import TextSpec
from ivid.spec.t5 import BYTES, t5_spec
from ivid.text import t5
from ivid.text.encoder import TextEncoder

CAPTION = "a large red circle moves left and a small blue star spins on a black background, take {:04}"


def bench_text(names: Sequence[str], *, batch_size: int, repeats: int) -> Iterator[dict[str, Any]]:
  """Embeds `batch_size` captions with random float32 weights, in turn with a matrix product; returns one row of figures per encoder.

  Captions are tokenized as bytes, whatever the encoder's own tokenizer is. The time covers everything from strings to bfloat16 rows on the
  host. The arithmetic only counts real tokens, although a batch also computes padding.
  """
  captions = [CAPTION.format(n) for n in range(batch_size)]
  matrix = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX), jnp.float32)
  product = Program("matmul", lambda a: a @ a).jit()
  for name in names:
    spec = t5_spec(name, tokenizer=BYTES, dtype="float32")
    rng = np.random.default_rng(0)
    shapes = nn.meta.unbox(t5.abstract_params(spec))
    params = jax.tree.map(lambda a, rng=rng: rng.standard_normal(a.shape, np.float32) * np.float32(a.shape[0] ** -0.5), shapes)
    encoder = TextEncoder(spec, params, digest="random", batch_size=batch_size)
    tokens = [len(ids) for ids in encoder.tokenizer.token_lists(captions, spec.max_tokens)]
    calls = {
      "embed": functools.partial(encoder.rows, captions, spec.max_tokens),
      "matmul": lambda: product(matrix).block_until_ready(),
    }
    seconds = interleaved(calls, repeats=repeats)
    gflop = sum(caption_flops(spec, count) for count in tokens) / 1e9
    rates = {"embed": gflop / seconds["embed"], "matmul": 2 * MATRIX**3 / 1e9 / seconds["matmul"]}
    yield {
      "encoder": name,
      "parameters": sum(math.prod(a.shape) for a in jax.tree.leaves(shapes)),
      "captions": batch_size,
      "tokens": sum(tokens),
      "gflop": gflop,
      "captions_per_second": batch_size / seconds["embed"],
      "gflops": rates,
      "ratio": rates["embed"] / rates["matmul"],
    }


def caption_flops(spec: TextSpec, tokens: int) -> int:
  """Multiplications and additions in the matrix products for one caption of so many tokens."""
  joined = spec.heads * spec.head_dim
  layer = 4 * spec.dim * joined + 3 * spec.dim * spec.mlp_dim + 2 * tokens * joined
  return 2 * spec.layers * tokens * layer


def format_header() -> str:
  sizes = f"{'encoder':16} {'params':>14} {'captions':>8} {'tokens':>7} {'GFLOP':>8} {'captions/s':>10}"
  return f"{sizes} {'embed':>7} {'matmul':>7}  ratio (GFLOP/s)"


def format_row(row: dict[str, Any]) -> str:
  rates = row["gflops"]
  return (
    f"{row['encoder']:16} {row['parameters']:>14,} {row['captions']:>8} {row['tokens']:>7} {row['gflop']:>8.1f} "
    f"{row['captions_per_second']:>10.1f} {rates['embed']:>7.1f} {rates['matmul']:>7.1f}  {row['ratio']:.2f}"
  )
