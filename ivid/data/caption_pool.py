"""A fixed set of captions from which training draws, so that each only has to be embedded once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ivid.moving_shapes import grammar
from ivid.moving_shapes.grammar import Attributes
from ivid.spec.run import DataSpec

_STREAM = 3 << 16  # differs from all of ivid.data.example.STREAMS


class Entry(NamedTuple):
  """The contents of a scene, and its caption."""

  attributes: Attributes
  caption: str


class CaptionPool(NamedTuple):
  """Captions, one half for clips and one half for single moments, which name no motion."""

  images: tuple[Entry, ...]
  clips: tuple[Entry, ...]

  def pick(self, rng: np.random.Generator, *, motion: bool) -> Entry:
    """A random entry: for a clip if `motion`, else for a single moment."""
    entries = self.clips if motion else self.images
    return entries[int(rng.integers(len(entries)))]

  def captions(self) -> list[str]:
    """All captions in order. Captions of few attributes occur several times."""
    return [entry.caption for entry in (*self.images, *self.clips)]


def training_pool(data: DataSpec, seed: int) -> CaptionPool | None:
  """The pool of a run with this train.seed; None if every caption is new or comes from a prepared data set."""
  if not data.caption_pool or data.name != "moving_shapes":
    return None
  return make_pool(seed, data.caption_pool, data.paraphrase, data.two_objects)


@functools.lru_cache(maxsize=4)
def make_pool(seed: int, size: int, paraphrase: float, two_objects: float) -> CaptionPool:
  """The pool that these numbers determine; it is the same for every process and host.

  Args:
    size: number of entries, half of them for single moments; an even number.
    paraphrase, two_objects: shares of the entries, as in DataSpec. No entry contains held-out objects.
  """
  share = (paraphrase, two_objects)
  return CaptionPool(*(tuple(_entries(seed, size // 2, *share, motion=motion)) for motion in (False, True)))


def _entries(seed: int, count: int, paraphrase: float, two_objects: float, *, motion: bool) -> Iterator[Entry]:
  rng = np.random.default_rng([seed, _STREAM, int(motion)])
  for _ in range(count):
    said = grammar.sample_attributes(rng, bool(rng.random() < two_objects))
    yield Entry(said, training_caption(said, rng, paraphrase=paraphrase, motion=motion))


def training_caption(said: Attributes, rng: np.random.Generator, *, paraphrase: float, motion: bool) -> str:
  """A caption that is a paraphrase with probability `paraphrase`, and otherwise follows the template."""
  if rng.random() < paraphrase:
    return grammar.paraphrase(said.objects, said.background, rng, motion=motion)
  return (grammar.caption if motion else grammar.image_caption)(said.objects, said.background)
