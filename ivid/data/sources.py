"""Examples by index: moving_shapes drawn on the fly, or a prepared TFDS data set. An example only depends on its index."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from ivid.data.caption_pool import training_caption, training_pool
from ivid.data.example import CHOICES, STREAMS, Example, Source, Split
from ivid.data.frames import pack
from ivid.data.mixture import NOTHING, Drawn, Member, Mixture
from ivid.data.view import frame_times, random_corner
from ivid.moving_shapes import grammar
from ivid.moving_shapes import scene as moving_shapes
from ivid.moving_shapes.draw import draw, rounded
from ivid.spec.errors import UserError, nearest
from ivid.spec.run import DataSpec, Draw, SourceSpec, TrainSpec
from ivid.spec.stage import StageSpec
from ivid.spec.view import View, make_view

DURATION_SLACK = 1e-3  # seconds
MOVING_SHAPES = "moving_shapes"


def make_source(
  *, data: DataSpec, train: TrainSpec, stage: StageSpec, split: Split, first_index: int = 0, before: Drawn = NOTHING
) -> Source:
  """The source that `data.name` names, or the mixture of `data.sources`.

  Args:
    first_index: of the phase; rows of images are counted from it.
    before: what earlier phases drew.

  Raises:
    UserError: the name is unknown, or the source cannot give such clips.
  """
  if not data.sources and data.name == MOVING_SHAPES:
    return MovingShapes(data=data, train=train, stage=stage, split=split, first_index=first_index)
  view = make_view(train, stage)
  specs = data.named()
  members = [_member(spec, number, data=data, train=train, stage=stage, view=view, split=split) for number, spec in enumerate(specs)]
  weights = dict(clips=[spec.clips for spec in specs], images=[spec.images for spec in specs])
  return Mixture(members, **weights, train=train, view=view, first_index=first_index, before=before)


def _member(spec: SourceSpec, number: int, *, data: DataSpec, train: TrainSpec, stage: StageSpec, view: View, split: Split) -> Member:
  if spec.name == MOVING_SHAPES:
    return MovingShapes(data=data, train=train, stage=stage, split=split)
  if spec.is_prepared:
    from ivid.data.prepared import Prepared  # TFDS takes seconds to import

    return Prepared(name=spec.name, dir=spec.dir, seed=train.seed, number=number, view=view, split=split, short=data.short)
  field = f"data.sources[{number}].name" if data.sources else "data.name"
  raise UserError(f"{field}={spec.name!r}: {nearest(spec.name, (MOVING_SHAPES, 'tfds:NAME'))}")


class MovingShapes:
  """Clips of moving_shapes at a stage's output size, determined by (train.seed, split, index).

  Rows that train.is_image names, and every row of a view of one frame, are independent images. With data.draw=device an example's video is
  what draws it (ivid.data.frames). As a member of a mixture it has no end of clips and images, by count in place of index.
  """

  clips = images = None

  def __init__(self, *, data: DataSpec, train: TrainSpec, stage: StageSpec, split: Split, first_index: int = 0):
    if stage.output.seconds > moving_shapes.CLIP_SECONDS + DURATION_SLACK:
      raise UserError(
        f"stage {stage.name}: {stage.output} lasts {stage.output.seconds:g} s; moving_shapes lasts {moving_shapes.CLIP_SECONDS:.4g} s, "
        f"so expected at least {stage.output.frames / moving_shapes.CLIP_SECONDS:g} fps"
      )
    self.view: View = make_view(train, stage)
    self._data, self._train, self._split, self._first_index = data, train, split, first_index
    self._pool = training_pool(data, train.seed) if split is Split.TRAIN else None
    self._aspect = data.aspect or stage.output.width / stage.output.height

  def __getitem__(self, index: int) -> Example:
    if self.view.is_image or self._train.is_image(index - self._first_index):
      frames = [self._image(index, frame) for frame in range(self.view.frames)]
      return Example(np.stack([f[0] for f in frames]), tuple(f[1] for f in frames), False, self.view.clip.fps)
    clip, caption = self.clip(index)
    return Example(clip, (caption,), True, self.view.clip.fps)

  def clip(self, count: int) -> tuple[np.ndarray, str]:
    rng, scene, caption = self._scene(count, 0)
    first, *corner = random_corner(self.view, rng)
    picture = self._draw(scene, frame_times(self.view, first), corner)
    return picture, caption or self._caption(scene, rng, motion=True)

  def image(self, count: int) -> tuple[np.ndarray, str]:
    return self._image(count, 0)

  def scene(self, index: int) -> moving_shapes.Scene:
    """The scene of an example; for independent images, the scene of the first frame."""
    return self._scene(index, int(self.view.is_image or self._train.is_image(index)))[1]

  def _image(self, index: int, frame: int) -> tuple[np.ndarray, str]:
    """One moment of a separate scene, [H, W, 3] (or [N]), and its caption."""
    rng, scene, caption = self._scene(index, 1 + frame)
    corner = random_corner(self.view, rng)[1:]
    return self._draw(scene, np.array([moment(scene, rng)]), corner)[0], caption or self._caption(scene, rng, motion=False)

  def _scene(self, index: int, place: int) -> tuple[np.random.Generator, moving_shapes.Scene, str]:
    """The scene, the generator for draws around it, and its caption, or "" if no pool provides captions.

    `place`: 0 for a clip, 1 + frame for packed images.
    """
    stream = STREAMS[self._split] + place
    rng = np.random.default_rng([self._train.seed, index, stream, CHOICES])
    seeded = functools.partial(moving_shapes.make_scene, self._train.seed, index, aspect=self._aspect, stream=stream)
    if self._pool is not None:
      entry = self._pool.pick(rng, motion=place == 0)
      return rng, seeded(said=entry.attributes), entry.caption
    two = bool(rng.random() < self._data.two_objects)
    return rng, seeded(two_objects=two, held_out=self._split is Split.HELD_OUT), ""

  def _draw(self, scene: moving_shapes.Scene, times: np.ndarray, corner: Sequence[int]) -> np.ndarray:
    view = self.view
    if self._data.draw is Draw.DEVICE:
      return pack(scene, times, corner)
    crop = (*corner, view.height, view.width)
    return rounded(draw(scene, times=times, height=view.clip.height, width=view.clip.width, crop=crop))

  def _caption(self, scene: moving_shapes.Scene, rng: np.random.Generator, *, motion: bool) -> str:
    said = moving_shapes.attributes(scene)
    if self._split is Split.TRAIN:
      return training_caption(said, rng, paraphrase=self._data.paraphrase, motion=motion)
    return (grammar.caption if motion else grammar.image_caption)(said.objects, said.background)


def moment(scene: moving_shapes.Scene, rng: np.random.Generator) -> float:
  """A random time of the clip. If a size changes, it lies in the middle half, so that the caption's word for the size is true."""
  share = rng.random()
  if np.any(scene.growth):
    share = 0.25 + 0.5 * share
  return moving_shapes.CLIP_SECONDS * share
