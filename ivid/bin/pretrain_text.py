"""Trains the small text encoder on moving_shapes captions: `ivid pretrain_text --out=DIR --steps=N`.

The same command continues a run that was stopped; DIR/encoder is the encoder alone, as `load_encoder` reads it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ivid.bin.flags import define_fields, fields_of, parse_flags
from ivid.spec.pretraining import TextTraining

define_flags = functools.partial(define_fields, spec=TextTraining)


def main(argv: Sequence[str]) -> None:
  """Trains as argv (program name first) says, and prints the accuracies."""
  options = fields_of(parse_flags(argv, define_flags).flags, TextTraining)
  options.check()
  from ivid.runs.pretrain_text import pretrain_encoder  # starts JAX

  print("\n".join(f"{name} {value:.4f}" for name, value in pretrain_encoder(options).items()))
