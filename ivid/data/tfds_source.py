"""Examples by index from a prepared TFDS data set in a random-access format (ArrayRecord), without TensorFlow."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ivid.data import records
from ivid.data.clips import resized
from ivid.data.example import CHOICES, STREAMS, Example, Split
from ivid.data.view import random_corner
from ivid.spec.errors import UserError, nearest
from ivid.spec.run import DataSpec, TrainSpec
from ivid.spec.stage import StageSpec
from ivid.spec.view import make_view

PREFIX = "tfds:"
DEFAULT_DIR = "~/tensorflow_datasets"
RATE_SLACK = 1e-3
EVAL_SPLITS = ("validation", "test")


class TfdsSource:
  """Clips of a prepared data set at a stage's output.

  Training goes through the data set in another random order each epoch; the place of an index in it depends on the seed and
  the index alone. A clip that lasts longer than the stage's is entered at a random frame.
  """

  def __init__(self, *, data: DataSpec, train: TrainSpec, stage: StageSpec, split: Split, first_index: int = 0):
    self._builder = tfds.builder_from_directory(find_folder(data))
    names = list(self._builder.info.splits)
    wanted = ("train",) if split is Split.TRAIN else EVAL_SPLITS
    name = next((name for name in wanted if name in names), None)
    if split is Split.HELD_OUT or name is None:
      raise UserError(f"data.name={data.name!r} has no split for {split.value!r}: it has {', '.join(names)}")
    self._records = self._builder.as_data_source(split=name)
    if not len(self._records):
      raise UserError(f"data.name={data.name!r}: split {name} is empty")
    self.view = make_view(train, stage)
    self._train, self._split, self._first_index = train, split, first_index
    self._order = functools.lru_cache(maxsize=4)(self._order)

  def __getitem__(self, index: int) -> Example:
    rng = np.random.default_rng([self._train.seed, index, STREAMS[self._split], CHOICES])
    if self.view.is_image or self._train.is_image(index - self._first_index):
      return self._images(rng)
    record = self._records[self._place(index)]
    first, *corner = random_corner(self.view, rng)
    clip = self._frames(record, rng)[first : first + self.view.frames]
    return Example(self._cropped(clip, corner), (records.text_of(record, records.CAPTION),), True, self.view.clip.fps)

  def _images(self, rng: np.random.Generator) -> Example:
    """Independent frames of random records."""
    pictures, captions = [], []
    for place in rng.integers(len(self._records), size=self.view.frames):
      record = self._records[int(place)]
      clip = records.clip_of(record)
      frame = int(rng.integers(len(clip)))
      pictures.append(self._cropped(clip[frame : frame + 1], random_corner(self.view, rng)[1:])[0])
      captions.append(records.text_of(record, records.IMAGE_CAPTION) or records.text_of(record, records.CAPTION))
    return Example(np.stack(pictures), tuple(captions), False, self.view.clip.fps)

  def _place(self, index: int) -> int:
    epoch, place = divmod(index, len(self._records))
    return place if self._split is not Split.TRAIN else int(self._order(epoch)[place])

  def _order(self, epoch: int) -> np.ndarray:
    return np.random.default_rng([self._train.seed, epoch]).permutation(len(self._records))

  def _frames(self, record: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """The frames that the view's clip shows, at the record's own size."""
    clip, want = records.clip_of(record), self.view.clip
    rate = float(record.get(records.FPS, want.fps))
    stride = round(rate / want.fps)
    if stride < 1 or abs(rate / want.fps - stride) > RATE_SLACK:
      raise UserError(f"a record has {rate:g} fps: expected a multiple of {want.fps:g}, such as {max(1, stride) * want.fps:g}")
    needed = stride * (want.frames - 1) + 1
    if len(clip) < needed:
      raise UserError(f"a record has {len(clip)} frames at {rate:g} fps: expected at least {needed} for {want}")
    spare = len(clip) - stride * want.frames
    start = int(rng.integers(spare + 1)) if spare > 0 and self._split is Split.TRAIN else 0
    return clip[start : start + needed : stride]

  def _cropped(self, clip: np.ndarray, corner: list[int]) -> np.ndarray:
    want, (top, left) = self.view.clip, corner
    if clip.shape[1] < want.height or clip.shape[2] < want.width:
      raise UserError(f"a record has pictures of {clip.shape[1]}x{clip.shape[2]}: expected at least {want.height}x{want.width}")
    return resized(clip, want.height, want.width)[:, top : top + self.view.height, left : left + self.view.width]


def all_captions(data: DataSpec) -> Iterator[str]:
  """Every caption of every split, of clips and of single frames; clips are not decoded.

  Raises:
    UserError: as `find_folder`; a data set that is drawn on the fly; a caption that is no UTF-8, or is missing.
  """
  if not data.name.startswith(PREFIX):
    raise UserError(f"data.name={data.name!r} has no end of captions: expected tfds:NAME (`ivid data prepare` makes one)")
  builder = tfds.builder_from_directory(find_folder(data))
  wanted = (records.CAPTION, records.IMAGE_CAPTION)
  if records.CAPTION not in builder.info.features:
    raise UserError(f"data.name={data.name!r} has no {records.CAPTION!r}: its records hold {', '.join(sorted(builder.info.features))}")
  decoders = {name: tfds.decode.SkipDecoding() for name in builder.info.features if name not in wanted}
  for split in builder.info.splits:
    for record in builder.as_data_source(split=split, decoders=decoders):
      yield from (records.text_of(record, name) for name in wanted if name in record)


def find_folder(data: DataSpec) -> pathlib.Path:
  """Folder of the newest version of `tfds:NAME` (or `tfds:NAME/CONFIG`) under data.dir.

  Raises:
    UserError: it is not there, or it has several configs and none is named.
  """
  root = pathlib.Path(data.dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_DIR).expanduser()
  name = data.name.removeprefix(PREFIX)
  prepared = [path.parent for path in (root / name).rglob("dataset_info.json")]
  if not prepared:
    known = sorted(path.parent.parent.relative_to(root).as_posix() for path in root.rglob("dataset_info.json")) if root.is_dir() else []
    hint = nearest(name, known) if known else "nothing is prepared there; `ivid data prepare --out=DIR` makes one"
    raise UserError(f"data.name={data.name!r} is not under data.dir={str(root)!r}: {hint}")
  configs = sorted({path.parent for path in prepared})
  if len(configs) > 1:
    named = ", ".join(PREFIX + path.relative_to(root).as_posix() for path in configs)
    raise UserError(f"data.name={data.name!r} has several configs: expected one of {named}")
  return max(prepared, key=lambda path: [int(part) if part.isdigit() else 0 for part in path.name.split(".")])
