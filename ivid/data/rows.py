"""The rows of every batch that a process feeds, made from examples by index. Worker processes import this, so it imports little."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ivid.data.example import Example, Split, index_words
from ivid.data.mixture import NOTHING, Drawn
from ivid.data.sources import make_source
from ivid.spec import batch as batches
from ivid.spec.run import DataSpec, Draw, TrainSpec
from ivid.spec.stage import StageSpec

CAPTIONS = "captions"  # list[list[str]], one per clip and one per frame of packed images; embedded before it reaches a device
LAST_INDEX = 2**62  # two words of 32 bits, and a sequence's length is a signed word of 64


@dataclasses.dataclass(frozen=True)
class Feed:
  """Certain rows of every batch from some batch on; small enough to be sent to another process.

  Attributes:
    first_index: of the run's phase.
    before: clips and images that earlier phases drew.
    start: index of the first row of the first batch.
    rows: of every batch, in rising order.
  """

  data: DataSpec
  train: TrainSpec
  stage: StageSpec
  split: Split
  first_index: int
  start: int
  rows: tuple[int, ...]
  before: Drawn = NOTHING

  def open(self) -> Rows:
    """Raises UserError if the source rejects the settings."""
    return Rows(self)


class Rows:
  """A feed with its source, readable in any order. Entry p is (index, example); the rows of one batch follow those of the previous."""

  def __init__(self, feed: Feed):
    self._feed = feed
    at: dict[str, Any] = dict(first_index=feed.first_index, before=feed.before)
    self._source = make_source(data=feed.data, train=feed.train, stage=feed.stage, split=feed.split, **at)

  def __len__(self) -> int:
    return ((LAST_INDEX - self._feed.start) // self._feed.train.batch_size) * len(self._feed.rows)

  def __getitem__(self, place: int) -> tuple[int, Example]:
    step, row = divmod(place, len(self._feed.rows))
    index = self._feed.start + step * self._feed.train.batch_size + self._feed.rows[row]
    return index, self._source[index]

  def batch(self, number: int) -> dict[str, Any]:
    """Batch number `number` of the feed."""
    count = len(self._feed.rows)
    return self.collate([self[place] for place in range(number * count, (number + 1) * count)])

  def collate(self, pairs: list[tuple[int, Example]]) -> dict[str, Any]:
    """Pairs of index and example as one batch."""
    examples = [example for _, example in pairs]
    return {
      batches.FRAMES if self._feed.data.draw is Draw.DEVICE else batches.VIDEO: np.stack([e.video for e in examples]),
      CAPTIONS: [list(e.captions) for e in examples],
      batches.IS_VIDEO: np.array([e.is_video for e in examples]),
      batches.FPS: np.array([e.fps for e in examples], np.float32),
      batches.INDEX: index_words(index for index, _ in pairs),
    }
