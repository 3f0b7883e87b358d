"""Groups of samples that go through all stages together, so that memory does not depend on the number of samples."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import jax

from ivid.sample import plan
from ivid.spec.cascade import TextSpec
from ivid.spec.stage import StageSpec

# Bytes that a group holds between stages: some twenty clips of the paper's sizes. The weights of a stage are read once per group, and a
# killed run loses the clips of a group that have not passed the last stage. Each of the processes that share a machine holds so much.
HELD_BYTES = 1 << 30


def batches_of(samples: int, batch_size: int) -> list[range]:
  """Positions of the samples in each batch; `batch_size` 0: one per local device. The last batch may be smaller."""
  size = batch_size or jax.local_device_count()
  return [range(start, min(start + size, samples)) for start in range(0, samples, size)]


def grouped(batches: Sequence[range], keep: Collection[int], *, most: int) -> list[list[int]]:
  """Positions of the samples in each group. A group takes, in order, as many whole batches with any kept sample as `most` allows.

  The batch and row of a sample, on which its last bits may depend, are then the same whatever else is made.
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
  """Number of samples whose embeddings, and clips of two stages, fit HELD_BYTES and the memory beside a batch's state; at least 1."""
  values = [math.prod(spec.output.array) for spec in stages]
  state = max(values) * (batch_size or 1) * plan.STATE_BYTES
  # There may be two texts, one of them negative. A stage's clips coexist with its inputs until the last clip is made.
  each = 2 * 2 * text.max_tokens * text.dim + 2 * max(values[:-1], default=0)
  return max(1, int(min(HELD_BYTES, plan.clip_memory() - state) // each))
