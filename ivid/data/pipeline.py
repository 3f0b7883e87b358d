"""The input pipeline: batches by step, from examples by index (Grain). Its whole state is one integer, the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from ivid.data.example import Example, Source, Split
from ivid.data.sources import make_source
from ivid.spec import batch as batches
from ivid.spec.run import DataSpec, TrainSpec
from ivid.spec.stage import StageSpec

__all__ = ["CAPTIONS", "Split", "make_pipeline"]

CAPTIONS = "captions"  # list[list[str]], one a clip and one a frame of packed images; embedded before it reaches a device
LAST_INDEX = 2**31 - 1  # indices are int32


class _Rows:
  """The rows `rows` of every batch, in order from the one that starts at example `start` on: place p is (index, example)."""

  def __init__(self, source: Source, *, batch_size: int, start: int, rows: Sequence[int]):
    self._source, self._batch_size, self._start, self._rows = source, batch_size, start, rows

  def __len__(self) -> int:
    return ((LAST_INDEX - self._start) // self._batch_size) * len(self._rows)

  def __getitem__(self, place: int) -> tuple[int, Example]:
    step, row = divmod(place, len(self._rows))
    index = self._start + step * self._batch_size + self._rows[row]
    return index, self._source[index]


def make_pipeline(
  *,
  data: DataSpec,
  train: TrainSpec,
  stage: StageSpec,
  start_step: int = 0,
  first_index: int = 0,
  split: Split = Split.TRAIN,
  rows: Sequence[int] | None = None,
) -> Iterator[dict[str, Any]]:
  """Batches, or those rows of each that this process feeds, from batch number `start_step` of a phase on.

  A batch holds `video` uint8 [b, T, H, W, 3], `captions` b lists of texts (T where train.is_image, else 1), `is_video` bool [b], `fps`
  float32 [b] and `index` int32 [b] = first_index + step x batch_size + row.

  Args:
    first_index: examples of earlier phases.
    rows: 0 to batch_size - 1 in rising order, b of them (ivid.parallel.sharding.process_rows); None: all.

  Raises:
    ValueError: whatever the source does not accept.
  """
  taken = range(train.batch_size) if rows is None else tuple(rows)
  source = make_source(data=data, train=train, stage=stage, split=split, first_index=first_index)
  places = _Rows(source, batch_size=train.batch_size, start=first_index + start_step * train.batch_size, rows=taken)
  per_step = len(taken)
  reading = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=max(1, data.prefetch) * per_step)
  examples = grain.MapDataset.source(places).to_iter_dataset(reading)
  return iter(examples.batch(per_step, drop_remainder=True, batch_fn=_collate))


def _collate(pairs: list[tuple[int, Example]]) -> dict[str, Any]:
  examples = [example for _, example in pairs]
  return {
    batches.VIDEO: np.stack([e.video for e in examples]),
    CAPTIONS: [list(e.captions) for e in examples],
    batches.IS_VIDEO: np.array([e.is_video for e in examples]),
    batches.FPS: np.array([e.fps for e in examples], np.float32),
    batches.INDEX: np.array([index for index, _ in pairs], np.int32),
  }
