"""The clips that are judged: clips or single images that a cascade makes of prompts, and clips of a folder."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from ivid.evaluate.folder import find_clips
from ivid.evaluate.prompts import Prompt
from ivid.media.clips import ClipFile
from ivid.media.files import whole_file
from ivid.moving_shapes.image_observer import check_image
from ivid.moving_shapes.observer import check
from ivid.sample.groups import batches_of, grouped, most_held
from ivid.sample.keys import Sample
from ivid.sample.runner import run_cascade
from ivid.spec import convert
from ivid.spec.errors import UserError
from ivid.spec.run import TrainSpec
from ivid.spec.stage import StageSpec
from ivid.spec.view import training_view
from ivid.train.progress import Progress
from ivid.weights.cascades import CascadeFolder


@dataclasses.dataclass(frozen=True)
class Judging:
  """Clips that are to be judged.

  Attributes:
    prompts: the prompt of each clip.
    made_by: the source of the clips, for the report.
    key: everything on which the clips depend besides the prompts, as JSON has it.
    batch: number of clips made together.
    clips: yields the clips with these numbers, in this order.
  """

  prompts: Sequence[Prompt]
  made_by: dict[str, Any]
  key: dict[str, Any]
  batch: int
  clips: Callable[[Collection[int]], Iterator[np.ndarray | ClipFile]]


def from_folder(folder: str | os.PathLike[str], prompts: Sequence[Prompt] | None) -> Judging:
  """The clips of a folder, each with its prompt (ivid.evaluate.folder.find_clips). Only frames that are examined are read.

  Raises:
    UserError: as find_clips, at once; or, once it is read, a clip cannot be judged.
  """
  found = find_clips(folder, prompts)

  def clips(keep: Collection[int]) -> Iterator[ClipFile]:
    with Progress(total=len(keep)) as progress:
      for done, path in enumerate((found[n][1] for n in keep), start=1):
        clip = ClipFile(path)
        try:
          check(clip)  # pyright: ignore[reportArgumentType]  a clip in a file is read like an array
        except UserError as error:
          raise UserError(f"{path}: {error}") from None
        yield clip
        progress.update(done)

  stats = [(path.name, path.stat()) for _, path in found]
  key = dict(clips=os.path.abspath(folder), files=[(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
  return Judging([prompt for prompt, _ in found], dict(clips=os.fspath(folder)), key, 1, clips)


def from_cascade(cascade: CascadeFolder, stages: Sequence[StageSpec], prompts: Sequence[Prompt], *, seed: int, batch_size: int) -> Judging:
  """The last stage's clip of each prompt, in memory that does not grow with their number."""
  samples = [Sample(prompt.text, seed, 0) for prompt in prompts]

  def clips(keep: Collection[int]) -> Iterator[np.ndarray]:
    wanted = frozenset(keep)
    most = most_held(cascade.spec.text, stages, batch_size=batch_size)
    for group in grouped(batches_of(len(samples), batch_size), wanted, most=most):
      for clip in run_cascade(cascade, stages, [samples[n] for n in group], batch_size=batch_size):
        if clip.stage is stages[-1] and group[clip.index] in wanted:
          yield clip.frames

  made = made_by(cascade, stages, seed=seed)
  key = dict(made_by=made, batch_size=batch_size, weights=cascade.hashes(spec.name for spec in stages), text=stages[0].text_encoder)
  return Judging(prompts, made, key, batch_size, clips)


def made_once(judging: Judging, folder: pathlib.Path) -> Judging:
  """The same clips. Each is made when it is first needed, and read from the folder afterwards."""

  def clips(keep: Collection[int]) -> Iterator[np.ndarray]:
    files = {n: folder / f"{n}.npy" for n in sorted(keep)}
    made = judging.clips([n for n, path in files.items() if not path.is_file()])
    for path in files.values():
      if not path.is_file():
        with whole_file(path) as temporary:
          np.save(temporary, np.asarray(next(made)))
      yield np.load(path)

  return dataclasses.replace(judging, clips=clips)


def one_image(stages: Sequence[StageSpec]) -> StageSpec:
  """The base stage at one frame, which is a picture and no video (ivid.spec.batch.holds_pictures).

  Raises:
    UserError: there are more stages, or the images are too small to judge.
  """
  if len(stages) > 1:
    raise UserError(f"--images with --stop_stage={stages[-1].name}: expected {stages[0].name}, the base, alone")
  view = training_view(stages[0], TrainSpec(frames=1))
  check_image(np.zeros(view.output.array[1:], np.uint8))
  return view


def made_by(cascade: CascadeFolder, stages: Sequence[StageSpec], *, seed: int) -> dict[str, Any]:
  """The source of the clips, as reports state it."""
  record = [
    dict(
      name=spec.name,
      trained_steps=cascade.check(spec.name).step,
      sampling=convert.to_dict(spec.sampling),
      aug_snr=spec.lowres and spec.lowres.aug_snr,
    )
    for spec in stages
  ]
  return dict(cascade=cascade.spec.name, seed=seed, stages=record)
