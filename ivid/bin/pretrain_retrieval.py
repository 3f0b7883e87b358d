"""Train the network of `ivid evaluate --metrics=retrieval` on captioned clips; the same command again resumes.

ivid pretrain_retrieval --workdir=runs/retrieval
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ivid.bin.flags import define_fields, fields_of, parse_flags
from ivid.spec.retrieval import RetrievalTraining

define_flags = functools.partial(define_fields, spec=RetrievalTraining)


def main(argv: Sequence[str]) -> None:
  """Trains as argv (program name first) says. Wrong input is a UserError before any work is done."""
  options = fields_of(parse_flags(argv, define_flags).flags, RetrievalTraining)
  options.check()
  from ivid.runs.retrieval import train_retrieval  # starts JAX

  train_retrieval(options)
