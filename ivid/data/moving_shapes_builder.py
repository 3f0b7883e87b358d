"""The TFDS builder `moving_shapes`, which works without TensorFlow.

Importing this module imports TFDS and registers the builder; nothing else in ivid imports it before it is needed.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ivid.data import records
from ivid.data.example import STREAMS, Split
from ivid.media.files import naming_disk_errors, naming_errors
from ivid.media.scratch import put, scratch_folder, sweep
from ivid.moving_shapes import grammar
from ivid.moving_shapes import scene as moving_shapes
from ivid.moving_shapes.draw import draw, rounded
from ivid.spec.clip import ClipShape
from ivid.spec.errors import first_line

FORMAT = "array_record"


def _features() -> tfds.features.FeaturesDict:
  return tfds.features.FeaturesDict(
    {
      records.CLIP: tfds.features.Text(),
      records.SHAPE: tfds.features.Tensor(shape=(4,), dtype=np.int32),
      records.FPS: tfds.features.Scalar(dtype=np.float32),
      records.CAPTION: tfds.features.Text(),
      records.IMAGE_CAPTION: tfds.features.Text(),
      records.OBJECTS: tfds.features.Tensor(shape=(2, 4), dtype=np.int32),
      records.BACKGROUND: tfds.features.Scalar(dtype=np.int32),
    }
  )


@dataclasses.dataclass(eq=False)
class MovingShapesConfig(tfds.core.BuilderConfig):
  """How many clips of which shape; the same seed gives the same clips."""

  clip: ClipShape = ClipShape(16, 24, 40, 3.0)
  num_clips: int = 1000
  num_test: int = 100
  two_objects: float = 0.3
  seed: int = 0


class MovingShapes(tfds.core.GeneratorBasedBuilder):
  """Captioned clips of moving coloured shapes; test clips are other scenes of the same world."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [MovingShapesConfig(name="default")]  # a size would be taken: TFDS lets no other config have its name

  def __init__(self, **kwargs: Any):
    super().__init__(**{"file_format": FORMAT, **kwargs})

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(builder=self, description=self.__doc__, features=_features())

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    del dl_manager  # nothing to download
    config = self.builder_config
    return {"train": self._generate_examples(Split.TRAIN, config.num_clips), "test": self._generate_examples(Split.EVAL, config.num_test)}

  def _generate_examples(self, split: Split, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    config, clip = self.builder_config, self.builder_config.clip
    times = np.arange(clip.frames) / clip.fps
    for index in range(count):
      two = np.random.default_rng([config.seed, index, STREAMS[split], 1]).random() < config.two_objects
      scene = moving_shapes.make_scene(config.seed, index, aspect=clip.width / clip.height, two_objects=bool(two), stream=STREAMS[split])
      said = moving_shapes.attributes(scene)
      yield (
        index,
        records.encode(
          rounded(draw(scene, times=times, height=clip.height, width=clip.width)),
          fps=clip.fps,
          caption=grammar.caption(said.objects, said.background),
          image_caption=grammar.image_caption(said.objects, said.background),
          objects=np.array([dataclasses.astuple(item) for item in said.objects]),
          background=said.background,
        ),
      )


def make_builder(
  out: str | os.PathLike[str], clip: ClipShape, *, num_clips: int = 1000, num_test: int = 100, seed: int = 0
) -> MovingShapes:
  """The builder of drawn clips of that size."""
  return MovingShapes(data_dir=out, config=MovingShapesConfig(name=clip.size, clip=clip, num_clips=num_clips, num_test=num_test, seed=seed))


def prepare(builder: tfds.core.GeneratorBasedBuilder) -> pathlib.Path:
  """Writes the builder's records, whole or not at all, and returns their folder; clips that are already there stay.

  Raises:
    UserError: it cannot be written.
  """
  target = pathlib.Path(builder.data_dir)
  with naming_errors(target.parent):
    target.parent.mkdir(parents=True, exist_ok=True)
  sweep(target.parent)
  if target.exists():
    return target
  with naming_disk_errors(target), scratch_folder(target.parent) as place:
    try:
      made = type(builder)(data_dir=place, config=builder.builder_config)
      made.download_and_prepare(file_format=FORMAT)
    except RuntimeError as error:  # as ArrayRecord says that a disk is full
      raise OSError(first_line(error).partition(";")[0]) from None
    for split, info in made.info.splits.items():
      have = len(made.as_data_source(split=split))  # pyright: ignore[reportCallIssue]  TFDS declares less than it offers
      if have != info.num_examples:
        raise OSError(f"{have} of {info.num_examples} records of {split}: is the disk full?")
    with naming_errors(target):
      put(pathlib.Path(made.data_dir), target)
  return target
