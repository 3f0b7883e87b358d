"""The input pipeline: batches by step, from examples by index (Grain). Its whole state is one integer, the step."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any

import grain

from ivid.data.example import Split
from ivid.data.mixture import NOTHING, Drawn
from ivid.data.rows import CAPTIONS, Feed
from ivid.data.workers import from_workers
from ivid.spec.run import DataSpec, TrainSpec
from ivid.spec.stage import StageSpec

__all__ = ["CAPTIONS", "Split", "make_pipeline"]


def make_pipeline(
  *,
  data: DataSpec,
  train: TrainSpec,
  stage: StageSpec,
  start_step: int = 0,
  first_index: int = 0,
  before: Drawn = NOTHING,
  split: Split = Split.TRAIN,
  rows: Sequence[int] | None = None,
) -> Generator[dict[str, Any]]:
  """Yields batches, or those of their rows that this process feeds, from batch number `start_step` of a phase on.

  A batch holds `video` uint8 [b, T, H, W, 3], `captions` b lists of texts (T where train.is_image, else 1), `is_video` bool [b], `fps`
  float32 [b] and `index` uint32 [b, 2], the two words of first_index + step x batch_size + row. With data.draw=device it holds `frames`
  float32 [b, T, N] instead of `video` (ivid.data.frames). Closing it ends the processes of data.workers.

  Args:
    first_index: number of examples in earlier phases.
    before: clips and images that earlier phases drew.
    rows: 0 to batch_size - 1 in rising order, b of them (ivid.parallel.sharding.process_rows); None: all.

  Raises:
    UserError: the source rejects the settings.
  """
  taken = tuple(range(train.batch_size) if rows is None else rows)
  start = first_index + start_step * train.batch_size
  feed = Feed(data=data, train=train, stage=stage, split=split, first_index=first_index, start=start, rows=taken, before=before)
  places = feed.open()
  if data.workers:
    return from_workers(feed, data.workers)
  reading = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=max(1, data.prefetch) * len(taken))
  examples = grain.MapDataset.source(places).to_iter_dataset(reading)  # pyright: ignore[reportArgumentType]  Grain asks for methods and lists alone
  return _each(examples.batch(len(taken), drop_remainder=True, batch_fn=places.collate))  # pyright: ignore[reportArgumentType]  Grain asks for methods and lists alone


def _each(batches: Iterable[dict[str, Any]]) -> Generator[dict[str, Any]]:
  yield from batches
