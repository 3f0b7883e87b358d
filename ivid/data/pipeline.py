"""The input pipeline: batches by step, from examples by index (Grain). Its whole state is one integer, the step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from ivid.data.example import Example, Source, Split
from ivid.data.sources import make_source
from ivid.spec import batch as batches
from ivid.spec.run import DataSpec, TrainSpec
from ivid.spec.stage import StageSpec

__all__ = ["CAPTIONS", "Split", "make_pipeline"]

CAPTIONS = "captions"  # list[list[str]], b x K; embedded before it reaches a device
LAST_INDEX = 2**31 - 1  # indices are int32


class _Rows:
  """This process's rows of every batch, in order from `start_step` on: place p is (index, example)."""

  def __init__(self, source: Source, *, batch_size: int, start_step: int, process_index: int, process_count: int):
    self._source, self._batch_size, self._start = source, batch_size, start_step
    self._rows = batch_size // process_count
    self._first_row = process_index * self._rows

  def __len__(self) -> int:
    return (LAST_INDEX // self._batch_size - self._start) * self._rows

  def __getitem__(self, place: int) -> tuple[int, Example]:
    step, row = divmod(place, self._rows)
    index = (self._start + step) * self._batch_size + self._first_row + row
    return index, self._source[index]


def make_pipeline(
  *,
  data: DataSpec,
  train: TrainSpec,
  stage: StageSpec,
  start_step: int = 0,
  split: Split = Split.TRAIN,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, Any]]:
  """Batches of this process's rows, from batch number `start_step` on.

  A batch holds `video` uint8 [b, T, H, W, 3], `captions` b lists of K texts (K = T if the batch has images, where clips
  repeat theirs; else 1), `is_video` bool [b], `fps` float32 [b] and `index` int32 [b] = step x batch_size + row.
  Rows 0 .. train.num_images - 1 of the whole batch are packed independent images.

  Raises:
    ValueError: a batch that the processes cannot share, or whatever the source does not accept.
  """
  if train.batch_size % process_count:
    best = max(1, round(train.batch_size / process_count)) * process_count
    raise ValueError(f"train.batch_size={train.batch_size} is no multiple of the {process_count} processes: nearest {best}")
  source = make_source(data=data, train=train, stage=stage, split=split)
  rows = _Rows(source, batch_size=train.batch_size, start_step=start_step, process_index=process_index, process_count=process_count)
  per_step = train.batch_size // process_count
  packed = train.num_images > 0
  reading = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=max(1, data.prefetch) * per_step)
  examples = grain.MapDataset.source(rows).to_iter_dataset(reading)
  return iter(examples.batch(per_step, drop_remainder=True, batch_fn=lambda pairs: _collate(pairs, packed)))


def _collate(pairs: list[tuple[int, Example]], packed: bool) -> dict[str, Any]:
  examples = [example for _, example in pairs]
  count = len(examples[0].video) if packed else 1
  return {
    batches.VIDEO: np.stack([e.video for e in examples]),
    CAPTIONS: [list(e.captions) if len(e.captions) == count else list(e.captions) * count for e in examples],
    batches.IS_VIDEO: np.array([e.is_video for e in examples]),
    batches.FPS: np.array([e.fps for e in examples], np.float32),
    batches.INDEX: np.array([index for index, _ in pairs], np.int32),
  }
