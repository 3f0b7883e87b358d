"""Ground truth through super-resolution stages: drawn clips or a user's, shrunk, enlarged by the stages, and compared at each."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ivid.data.clips import clip_files
from ivid.evaluate.prompts import Prompt
from ivid.evaluate.upsampling import Comparison, compare, shrunk
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.grammar import Attributes
from ivid.moving_shapes.scene import make_scene
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
  """Ground truth at any size: its caption, what that says (None for a user's clip), and its pictures uint8 at a size and rate."""

  caption: str
  said: Attributes | None
  at: Callable[[ClipShape], np.ndarray]


def drawn_clips(prompts: Sequence[Prompt], *, seed: int, aspect: float) -> Iterator[Truth]:
  """A scene of moving_shapes for each prompt."""
  for n, prompt in enumerate(prompts):

    def at(size: ClipShape, n: int = n, prompt: Prompt = prompt) -> np.ndarray:
      scene = make_scene(seed, n, aspect=aspect, said=prompt.attributes)
      return rounded(draw(scene, times=np.arange(size.frames) / size.fps, height=size.height, width=size.width))

    yield Truth(prompt.text, prompt.attributes, at)


def real_clips(folder: str, stages: Sequence[StageSpec], *, aspect: float) -> Iterator[Truth]:
  """The clips of a folder, of which nothing is said.

  Raises:
    UserError: as clip_files, and as read_entry; a clip that is too long for the memory that the stages take.
  """
  longest = plan.longest_seconds(stages)
  for path in clip_files(pathlib.Path(folder)):
    print(path, file=sys.stderr)
    yield Truth("", None, lambda size, path=path: read_entry(path, size, aspect=aspect, max_seconds=longest).frames)


def through_stages(cascade: CascadeFolder, stages: Sequence[StageSpec], truth: Truth, *, seed: int) -> Iterator[Comparison]:
  """The clip's comparisons at every stage.

  Raises:
    UserError: a clip that is shorter than one frame of the first stage's input.
  """
  first = truth.at(stages[0].output)
  k = stages[0].time_factor
  if len(first) < k:
    raise UserError(f"a clip of {len(first)} frames at the output of stage {stages[0].name}: expected {k} or more")
  small = shrunk(first[: len(first) // k * k], stages[0])
  planned = plan.plan_length(stages, len(small))
  for clip in run_cascade(cascade, planned, [Sample(truth.caption, seed, 0)], first_input=small, quiet=True):
    real = truth.at(clip.stage.output)[: len(clip.frames)]
    yield compare(clip.stage.name, clip.frames, real, small, truth.said)
