"""Groups of a run's samples: what goes through all stages together, so that memory does not depend on how many there are."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import jax

from ivid.sample import plan
from ivid.spec.cascade import TextSpec
from ivid.spec.stage import StageSpec

# Bytes that a group holds between stages, some twenty clips of the paper's sizes: a stage's weights are read once for each group, and what
# a killed run has made of a group's clips before the last stage is lost. Processes that share a machine each hold as much.
HELD_BYTES = 1 << 30


def batches_of(samples: int, batch_size: int) -> list[range]:
  """Places of the samples that are computed together; `batch_size` 0: one on each local device. The last batch may be smaller."""
  size = batch_size or jax.local_device_count()
  return [range(start, min(start + size, samples)) for start in range(0, samples, size)]


def grouped(batches: Sequence[range], keep: Collection[int], *, most: int) -> list[list[int]]:
  """Places of the samples of each group: batches in their order, of those from which any sample is kept, whole, as many as `most` allows.

  A sample's batch and row are so the same whatever else is made: its last bits may depend on them.
  """
  groups: list[list[int]] = []
  for batch in batches:
    if not any(n in keep for n in batch):
      continue
    if not groups or len(groups[-1]) + len(batch) > most:
      groups.append([])
    groups[-1] += batch
  return groups


def most_held(text: TextSpec, stages: Sequence[StageSpec], *, batch_size: int) -> int:
  """Samples whose embeddings, and clips of two stages, fit HELD_BYTES and the machine's memory beside a batch's state; 1 or more."""
  values = [math.prod(spec.output.array) for spec in stages]
  state = max(values) * (batch_size or 1) * plan.STATE_BYTES
  # Two texts, as there may be a negative one; and a stage's clips lie beside those that it starts from until the last is made.
  each = 2 * 2 * text.max_tokens * text.dim + 2 * max(values[:-1], default=0)
  return max(1, int(min(HELD_BYTES, plan.clip_memory() - state) // each))
