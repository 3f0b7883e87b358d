"""Train the network of `ivid evaluate --metrics=retrieval` on captioned clips; the same command again resumes.

ivid pretrain_retrieval --workdir=runs/retrieval
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from ivid.bin.flags import define_fields, fields_of, parse_flags
from ivid.spec.errors import UsageError
from ivid.spec.retrieval import RetrievalTraining


def define_flags(values: flags.FlagValues) -> None:
  define_fields(values, RetrievalTraining)
  flags.DEFINE_string("workdir", None, "Folder of the run; WORKDIR/network is the network alone.", flag_values=values)


def main(argv: Sequence[str]) -> None:
  """Trains as argv (program name first) says. Wrong input is a UserError before any work is done."""
  values = parse_flags(argv, define_flags).flags
  options = fields_of(values, RetrievalTraining)
  if not values.workdir:
    raise UsageError("--workdir is missing: expected the folder of the run, such as runs/retrieval")
  from ivid.runs.retrieval import train_retrieval  # starts JAX

  train_retrieval(values.workdir, options)
