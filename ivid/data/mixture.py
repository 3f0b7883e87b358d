"""Examples from several sources by weight. Each source counts its own clips and images, so that an epoch is an epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np

from ivid.data.example import Example
from ivid.spec.errors import UserError
from ivid.spec.run import TrainSpec
from ivid.spec.view import View

SLOTS = 10_000  # after at most so many draws, the order of the sources starts again


class Member(Protocol):
  """One source of a mixture.

  Attributes:
    clips, images: how many it has; None: unlimited.
  """

  @property
  def clips(self) -> int | None: ...

  @property
  def images(self) -> int | None: ...

  def clip(self, count: int) -> tuple[np.ndarray, str]:
    """The count-th clip that is drawn from this source: frames uint8 [T, H, W, 3] of the view, and a caption."""
    ...

  def image(self, count: int) -> tuple[np.ndarray, str]:
    """Likewise a picture uint8 [H, W, 3] of the view and its caption; if the source has no images, a frame of a clip."""
    ...


class Shares:
  """The source of each draw. Any run of consecutive draws is as close to the weights as whole numbers can be."""

  def __init__(self, weights: Sequence[float]):
    """Raises UserError if a weight is too small compared with the others."""
    whole = [Fraction(str(weight)) for weight in weights]
    shares = [weight / sum(whole) for weight in whole]
    slots = min(SLOTS, math.lcm(*(share.denominator for share in shares)))
    counts = [round(share * slots) for share in shares]
    if 0 in counts:
      small = weights[counts.index(0)]
      raise UserError(f"data.sources: a weight of {small:g} of {sum(weights):g} in all: expected at least 1 of {SLOTS}")
    counts[int(np.argmax(counts))] += slots - sum(counts)
    # The next slot goes to the source that is furthest behind.
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    self._order = np.repeat(np.arange(len(counts)), counts)[np.argsort(places, kind="stable")]
    self._before = np.zeros(slots, np.int64)
    for source, count in enumerate(counts):
      self._before[self._order == source] = np.arange(count)
    self._counts = counts

  def __getitem__(self, draw: int) -> tuple[int, int]:
    """The source of a draw, and the number of earlier draws from that source."""
    around, slot = divmod(draw, len(self._order))
    source = int(self._order[slot])
    return source, around * self._counts[source] + int(self._before[slot])


@dataclasses.dataclass(frozen=True)
class Drawn:
  """Clips and images that were drawn before a phase began."""

  clips: int = 0
  images: int = 0


NOTHING = Drawn()


def drawn(train: TrainSpec, view: View, rows: int) -> Drawn:
  """What the first `rows` rows of a phase draw."""
  if view.is_image:
    return Drawn(0, rows)
  layout = train.captions
  around, rest = divmod(rows, layout.rows)
  images = around * layout.images + min(rest, layout.images)
  return Drawn(rows - images, images * view.frames)


class Mixture:
  """A training source of members by weight: clips for rows of clips, images for rows of images."""

  def __init__(
    self,
    members: Sequence[Member],
    *,
    clips: Sequence[float],
    images: Sequence[float],
    train: TrainSpec,
    view: View,
    first_index: int,
    before: Drawn,
  ):
    """
    Args:
      clips, images: weights of the members; the latter only count members that have images.
      first_index: of the phase.
      before: what earlier phases drew.

    Raises:
      UserError: there is nothing to draw rows from.
    """
    self._train, self._view, self._first_index, self._before = train, view, first_index, before
    self._clips = _Choice(members, clips, [member.clips for member in members])
    self._images = _Choice(members, images, [member.images for member in members])
    if not self._images:  # rows of images then show frames of clips
      self._images = self._clips
    needs_clips = not view.is_image and train.captions.images < train.captions.rows
    if needs_clips and not self._clips:
      raise UserError("data has no clips, only images: expected a phase of frames=1, or another source with clips")
    if not self._images and not self._clips:
      raise UserError("data has neither clips nor images")

  def __getitem__(self, index: int) -> Example:
    place = index - self._first_index
    so_far = drawn(self._train, self._view, place)
    fps = self._view.clip.fps
    if self._view.is_image or self._train.is_image(place):
      first = self._before.images + so_far.images
      chosen = [self._images[first + n] for n in range(self._view.frames)]
      found = [member.image(count) for member, count in chosen]
      return Example(np.stack([picture for picture, _ in found]), tuple(caption for _, caption in found), False, fps)
    member, count = self._clips[self._before.clips + so_far.clips]
    clip, caption = member.clip(count)
    return Example(clip, (caption,), True, fps)


class _Choice:
  """The members that have any examples, by weight."""

  def __init__(self, members: Sequence[Member], weights: Sequence[float], counts: Sequence[int | None]):
    chosen = [(member, weight) for member, weight, count in zip(members, weights, counts, strict=True) if weight > 0 and count != 0]
    self._members = [member for member, _ in chosen]
    self._shares = Shares([weight for _, weight in chosen]) if chosen else None

  def __bool__(self) -> bool:
    return bool(self._members)

  def __getitem__(self, draw: int) -> tuple[Member, int]:
    """The member of a draw, and the number of earlier draws from that member."""
    source, count = self._shares[draw]
    return self._members[source], count
