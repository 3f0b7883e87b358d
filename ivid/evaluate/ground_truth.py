"""Sends ground truth through super-resolution stages: drawn or user's clips are shrunk, enlarged by the stages, and compared at each."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ivid.data.clips import clip_files
from ivid.evaluate.judged import made_by
from ivid.evaluate.prompts import Prompt
from ivid.evaluate.shares import Work, make_share
from ivid.evaluate.upsampling import Comparison, compare, keep, restore, shrunk
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.grammar import Attributes
from ivid.moving_shapes.scene import Scene, make_scene
from ivid.sample import plan
from ivid.sample.entry import read_entry
from ivid.sample.keys import Sample
from ivid.sample.runner import run_cascade
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.stage import StageSpec
from ivid.weights.cascades import CascadeFolder


@dataclasses.dataclass(frozen=True)
class Truth:
  """Ground truth at any size: its caption, the attributes in it (None for a user's clip), and its frames uint8 at a size and rate.

  `key` distinguishes it from others with the same caption, as JSON has it; `scene` makes its scene (None for a user's clip).
  """

  caption: str
  said: Attributes | None
  at: Callable[[ClipShape], np.ndarray]
  key: dict[str, Any]
  scene: Callable[[], Scene] | None = None


def drawn_clips(prompts: Sequence[Prompt], *, seed: int, aspect: float) -> list[Truth]:
  """A scene of moving_shapes for each prompt."""
  truths = []
  for n, prompt in enumerate(prompts):
    scene = functools.partial(make_scene, seed, n, aspect=aspect, said=prompt.attributes)

    def at(size: ClipShape, scene: Callable[[], Scene] = scene) -> np.ndarray:
      return rounded(draw(scene(), times=np.arange(size.frames) / size.fps, height=size.height, width=size.width))

    truths.append(Truth(prompt.text, prompt.attributes, at, {"n": n}, scene))
  return truths


def real_clips(folder: str, stages: Sequence[StageSpec], *, aspect: float) -> list[Truth]:
  """The clips of a folder, whose attributes are unknown.

  Raises:
    UserError: as clip_files and read_entry; or a clip is too long for the memory that the stages need.
  """
  longest, truths = plan.longest_seconds(stages), []
  for path in clip_files(pathlib.Path(folder)):
    stat = path.stat()
    key = dict(file=os.path.abspath(path), bytes=stat.st_size, changed=stat.st_mtime_ns)
    truths.append(Truth("", None, lambda size, path=path: read_entry(path, size, aspect=aspect, max_seconds=longest).frames, key))
  return truths


def compare_share(
  cascade: CascadeFolder,
  stages: Sequence[StageSpec],
  truths: Sequence[Truth],
  folder: pathlib.Path,
  *,
  seed: int,
  process: tuple[int, int] | None,
) -> list[Comparison] | None:
  """All clips' comparisons; None while those of other processes are missing. Arguments: see make_share; errors: see through_stages."""

  def make(numbers: Sequence[int]) -> Iterator[list[Comparison]]:
    for n in numbers:
      if "file" in truths[n].key:
        print(truths[n].key["file"], file=sys.stderr)
      yield list(through_stages(cascade, stages, truths[n], seed=seed))

  weights = cascade.hashes(spec.name for spec in stages)
  clips = [(truth.caption, truth.key) for truth in truths]
  fields = [field.name for field in dataclasses.fields(Comparison)]  # older versions kept fewer values
  key: dict[str, Any] = dict(metric="upsampling", fields=fields, made_by=made_by(cascade, stages, seed=seed), weights=weights, clips=clips)
  key["aspect"] = cascade.spec.aspect
  found = make_share(Work(key, len(truths), 1, make), folder, process, keep, lambda _, kept: restore(kept))
  return None if found is None else [comparison for of_clip in found for comparison in of_clip]


def through_stages(cascade: CascadeFolder, stages: Sequence[StageSpec], truth: Truth, *, seed: int) -> Iterator[Comparison]:
  """The clip's comparisons at every stage.

  Raises:
    UserError: a clip is shorter than one frame of the first stage's input.
  """
  first = truth.at(stages[0].output)
  k = stages[0].time_factor
  if len(first) < k:
    raise UserError(f"a clip of {len(first)} frames at the output of stage {stages[0].name}: expected {k} or more")
  small = shrunk(first[: len(first) // k * k], stages[0])
  planned = plan.plan_length(stages, len(small))
  for clip in run_cascade(cascade, planned, [Sample(truth.caption, seed, 0)], first_input=small, quiet=True):
    real = truth.at(clip.stage.output)[: len(clip.frames)]
    scene = truth.scene and truth.scene()
    yield compare(clip.stage.name, clip.frames, real, small, truth.said, scene, fps=clip.stage.output.fps)
