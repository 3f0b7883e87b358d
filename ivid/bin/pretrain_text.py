"""Trains the small text encoder on moving_shapes captions: `ivid pretrain_text --out=DIR --steps=N`.

The same command continues a run that was stopped; DIR/encoder is the encoder alone, as `load_encoder` reads it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from ivid.bin.flags import parse_flags
from ivid.spec.cascade import TextSpec
from ivid.spec.errors import UsageError


def define_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_string("out", None, "Folder of the run.", flag_values=values)
  flags.DEFINE_integer("steps", 500, "Total number of steps.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("batch_size", 16, "Captions per step.", lower_bound=1, flag_values=values)
  flags.DEFINE_float("learning_rate", 1.2e-3, "Peak learning rate of Adam.", flag_values=values)
  flags.DEFINE_integer("seed", 0, "Seed of parameters and captions.", lower_bound=0, flag_values=values)


def main(argv: Sequence[str]) -> None:
  """Trains as argv (program name first) says, and prints the accuracies."""
  values = parse_flags(argv, define_flags).flags
  if not values.out:
    raise UsageError("--out is missing: expected the folder of the run, such as runs/text")
  from ivid.runs.cache import enable_compilation_cache
  from ivid.runs.pretrain_text import pretrain_encoder  # starts JAX

  enable_compilation_cache()
  results = pretrain_encoder(
    pathlib.Path(values.out),
    spec=TextSpec(),
    steps=values.steps,
    batch_size=values.batch_size,
    learning_rate=values.learning_rate,
    seed=values.seed,
  )
  print("\n".join(f"{name} {value:.4f}" for name, value in results.items()))
