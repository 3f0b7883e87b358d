"""Clips and images of a prepared TFDS data set in a random-access format (ArrayRecord), without TensorFlow."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
import pyarrow
import tensorflow_datasets as tfds

from ivid.data import records
from ivid.data.example import CHOICES, STREAMS, Split
from ivid.data.folder import DESCRIPTION, Records, open_builder, read_splits, read_table
from ivid.data.view import random_corner
from ivid.data.windows import frames_at, looped
from ivid.media.copies import local_copy
from ivid.media.files import at_home
from ivid.media.fit import fit
from ivid.media.places import is_remote
from ivid.media.scratch import is_scratch
from ivid.spec.errors import UserError, nearest
from ivid.spec.names import check_path
from ivid.spec.prepare import colour
from ivid.spec.run import TFDS, Short
from ivid.spec.view import View

DEFAULT_DIR = "~/tensorflow_datasets"
EVAL_SPLITS = ("validation", "test")
SLACK = 0.5  # in frames: a clip that is shorter by so little still counts as long enough


class Prepared:
  """A member of a mixture, which goes through its clips and its images in a new random order each epoch.

  What is drawn around a clip (window, crop, caption) only depends on the seed and the count. A clip that is longer than the view is entered
  at a random time.
  """

  def __init__(self, *, name: str, dir: str, seed: int, number: int, view: View, split: Split, short: Short):
    """
    Args:
      name, dir: as of DataSpec.
      number: index of the source in the run, so that equal sources differ.

    Raises:
      UserError: it does not exist, lacks the split, or has nothing in it that can be used.
    """
    folder = find_folder(name, dir)
    builder = open_builder(folder)
    names = list(builder.info.splits)
    wanted = ("train",) if split is Split.TRAIN else EVAL_SPLITS
    found = next((name for name in wanted if name in names), None)
    if split is Split.HELD_OUT or found is None:
      raise UserError(f"{name} has no split for {split.value!r}: it has {', '.join(names)}")
    self._records = Records(builder, found)
    if not len(self._records):
      raise UserError(f"{name}: split {found} is empty")
    self._name, self._view, self._split, self._short = name, view, split, short
    self._seed = [seed] if not number else [seed, number]
    index = folder / records.index_name(found)
    everything = np.arange(len(self._records))
    chosen = self._usable(index) if index.is_file() else (everything, everything[:0], everything)
    self._clip_order, self._image_order, self._frame_order = (
      _Order(places, self._seed, shuffled=split is Split.TRAIN) for places in chosen
    )

  def _usable(self, index: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the clips that are large and long enough, of the images, and of the clips that are large enough for single frames."""
    columns = ("frames", "seconds", "height", "width")
    table = pyarrow.Table.from_batches(read_table(index, columns, rows=len(self._records)))
    frames, seconds, heights, widths = (column.to_numpy() for column in table.columns)
    want = self._view.clip
    aspect = want.width / want.height
    large = (np.minimum(heights, widths / aspect) > want.height - 0.5) & (np.minimum(widths, heights * aspect) > want.width - 0.5)
    if not large.any():
      raise UserError(f"{self._name}: none of its {len(large)} items is as large as the {want.width}x{want.height} of {want}")
    lasts = (seconds >= self._least_seconds) | (self._short is not Short.REJECT)
    chosen = [np.flatnonzero(which) for which in ((frames > 1) & large & lasts, (frames == 1) & large, (frames > 1) & large)]
    if not len(chosen[0]) and len(chosen[2]) and not len(chosen[1]) and not self._view.is_image:
      raise UserError(
        f"{self._name}: none of its {len(chosen[2])} clips lasts the {want.seconds:.3g} s of {want}: expected longer ones, or "
        "data.short=hold (the last frame stays) or loop (they begin anew)"
      )
    return chosen[0], chosen[1], chosen[2]

  @property
  def _least_seconds(self) -> float:
    return self._view.clip.seconds - (1 + SLACK) / self._view.clip.fps

  @property
  def clips(self) -> int:
    return len(self._clip_order)

  @property
  def images(self) -> int:
    return len(self._image_order)

  def clip(self, count: int) -> tuple[np.ndarray, str]:
    rng = np.random.default_rng([*self._seed, count, STREAMS[self._split], CHOICES])
    record = self._records[self._clip_order[count]]
    first, *corner = random_corner(self._view, rng)
    times = (first + np.arange(self._view.frames)) / self._view.clip.fps
    return self._cropped(self._window(record, times, rng), corner), self._caption(record, rng)

  def image(self, count: int) -> tuple[np.ndarray, str]:
    rng = np.random.default_rng([*self._seed, count, STREAMS[self._split] + 1, CHOICES])
    own = len(self._image_order) > 0
    record = self._records[(self._image_order if own else self._frame_order)[count]]
    corner = random_corner(self._view, rng)[1:]
    return self._cropped(self._still(record, rng), corner)[0], self._caption(record, rng, image=True)

  def _window(self, record: Mapping[str, Any], times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames at the view's whole size, at `times` within a window of the view's length."""
    clip, seconds = self._opened(record)
    spare = seconds - self._view.clip.seconds
    if seconds < self._least_seconds and self._short is Short.REJECT:
      raise UserError(
        f"{self._name}: a clip of {seconds:.3g} s: expected the {self._view.clip.seconds:.3g} s of {self._view.clip}, or data.short"
      )
    # Windows for training begin anywhere; other windows begin with the clip.
    times = times + (rng.uniform(0, spare) if spare > 0 and self._split is Split.TRAIN else 0.0)
    if self._short is Short.LOOP:
      times = looped(times, seconds)
    return self._frames(record, clip, times)

  def _still(self, record: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    """One picture; if it comes from a clip, at a random time."""
    clip, seconds = self._opened(record)
    return self._frames(record, clip, np.array([rng.uniform(0, seconds) if seconds else 0.0]))

  def _opened(self, record: Mapping[str, Any]) -> tuple[np.ndarray | None, float]:
    """The record's frames (None if they are encoded), and its duration in seconds."""
    if records.MEDIA in record:
      return None, float(record[records.SECONDS])
    clip = records.clip_of(record)
    return clip, len(clip) / float(record.get(records.FPS, self._view.clip.fps))

  def _frames(self, record: Mapping[str, Any], clip: np.ndarray | None, times: np.ndarray) -> np.ndarray:
    want = self._view.clip
    if clip is None:
      behind = colour(records.text_of(record, records.COLOUR) or "#000000")
      source = records.text_of(record, records.SOURCE)
      return frames_at(record[records.MEDIA], times, want.height, want.width, background=behind, name=source)  # pyright: ignore[reportArgumentType]  TFDS declares less than it offers
    if clip.shape[1] < want.height or clip.shape[2] < want.width:
      raise UserError(f"a record has pictures of {clip.shape[1]}x{clip.shape[2]}: expected at least {want.height}x{want.width}")
    rate = float(record.get(records.FPS, want.fps))
    picked = np.clip((times * rate + 1e-3).astype(int), 0, len(clip) - 1)
    return np.stack([fit(clip[n], want.height, want.width) for n in picked])

  def _caption(self, record: Mapping[str, Any], rng: np.random.Generator, *, image: bool = False) -> str:
    several = record.get(records.CAPTIONS)
    if several is not None:
      return records.text_of({"caption": several[int(rng.integers(len(several)))]}, "caption")
    return (records.text_of(record, records.IMAGE_CAPTION) if image else "") or records.text_of(record, records.CAPTION)

  def _cropped(self, clip: np.ndarray, corner: Sequence[int]) -> np.ndarray:
    top, left = corner
    return clip[:, top : top + self._view.height, left : left + self._view.width]


class _Order:
  """Positions of records by count: each occurs once per epoch, in a new order each time, without storing the order."""

  def __init__(self, places: np.ndarray, seed: list[int], *, shuffled: bool):
    self._places = places
    counts = grain.MapDataset.range(max(1, len(places)))
    if shuffled:
      counts = counts.shuffle(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))
    self._counts = counts.repeat()

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, count: int) -> int:
    return int(self._places[self._counts[count]])


def all_captions(name: str, dir: str) -> Iterator[str]:
  """Every caption of every split, of clips and of single frames; media are not decoded.

  Raises:
    UserError: as `find_folder`; or the data set is drawn on the fly, or a caption is missing or not UTF-8.
  """
  if not name.startswith(TFDS):
    raise UserError(f"data.name={name!r} has no end of captions: expected tfds:NAME (`ivid data prepare` makes one)")
  folder = find_folder(name, dir)
  builder = open_builder(folder)
  indices = [folder / records.index_name(split.name) for split in read_splits(folder)]
  if all(index.is_file() for index in indices):
    for index, split in zip(indices, read_splits(folder), strict=True):
      for batch in read_table(index, (records.CAPTIONS,), rows=split.items):
        yield from (text for several in batch.column(0).to_pylist() for text in several if text is not None)
    return
  wanted = (records.CAPTION, records.IMAGE_CAPTION, records.CAPTIONS)
  if not any(key in builder.info.features for key in (records.CAPTION, records.CAPTIONS)):  # pyright: ignore[reportOperatorIssue]  TFDS declares less than it offers
    raise UserError(f"data.name={name!r} has no {records.CAPTION!r}: its records hold {', '.join(sorted(builder.info.features))}")  # pyright: ignore[reportArgumentType]  TFDS declares less than it offers
  decoders = {key: tfds.decode.SkipDecoding() for key in builder.info.features if key not in wanted}  # pyright: ignore[reportGeneralTypeIssues]  TFDS declares less than it offers
  for split in builder.info.splits:
    for record in Records(builder, split, decoders=decoders):
      yield from (records.text_of(record, key) for key in wanted[:2] if key in record)
      yield from (records.text_of({"caption": text}, "caption") for text in record.get(records.CAPTIONS, ()))


def find_folder(name: str, dir: str) -> pathlib.Path:
  """Folder of the newest version of `tfds:NAME` (or `tfds:NAME/CONFIG`) under `dir` (empty: TFDS's own).

  Raises:
    UserError: it does not exist, or has several configs and none is named; for a bucket also as ivid.media.copies.local_copy.
  """
  short = check_path(name.removeprefix(TFDS), f"data.name={name!r}: data set")
  if is_remote(dir):
    base = local_copy(f"{dir.rstrip('/')}/{short}", "data.dir")
    root = base.parent
  else:
    root = at_home(dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_DIR, instead="data.dir, or TFDS_DATA_DIR")
    base = root / short
  prepared = [path.parent for path in base.rglob(DESCRIPTION) if not is_scratch(path)]
  if not prepared:
    known = sorted(path.parent.parent.relative_to(root).as_posix() for path in root.rglob(DESCRIPTION)) if root.is_dir() else []
    hint = nearest(short, known) if known else "nothing is prepared there; `ivid data prepare --out=DIR` makes one"
    raise UserError(f"data.name={name!r} is not under data.dir={str(root)!r}: {hint}")
  configs = sorted({path.parent for path in prepared})
  if len(configs) > 1:
    named = ", ".join(TFDS + path.relative_to(root).as_posix() for path in configs)
    raise UserError(f"data.name={name!r} has several configs: expected one of {named}")
  return max(prepared, key=lambda path: [int(part) if part.isdecimal() else 0 for part in path.name.split(".")])
