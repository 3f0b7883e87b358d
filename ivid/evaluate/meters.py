"""Metrics that see each clip of a prompt once, as it is made, and only keep what they need."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ivid.evaluate import i3d
from ivid.evaluate.adherence import judge
from ivid.evaluate.clip_sets import real_clips
from ivid.evaluate.dual_encoder import fitted
from ivid.evaluate.features import Convention, Extractor, Features
from ivid.evaluate.frechet import measure
from ivid.evaluate.prompts import GROUPS, Prompt
from ivid.evaluate.retrieval import check_prompts, score_clips, shipped_network
from ivid.evaluate.summary import rate, summarize
from ivid.moving_shapes.observer import check
from ivid.spec.clip import ClipShape
from ivid.spec.measures import ADHERENCE, FVD, RETRIEVAL, check_fvd_clips
from ivid.spec.real import RealClips


@dataclasses.dataclass(frozen=True)
class Occasion:
  """The clips to be measured.

  Attributes:
    shape, aspect: of the clips; width over height of the scene.
    prompts: the prompt of each coming clip.
    seed: seed of everything that is drawn.
    wanted: the real clips for FVD.
    features: folder in which features of real clips are kept.
  """

  shape: ClipShape
  aspect: float
  prompts: Sequence[Prompt]
  seed: int
  wanted: RealClips
  features: pathlib.Path


class Meter(Protocol):
  """One metric on one occasion. The constructor raises UserError if it cannot be measured; nothing is computed before the first clip."""

  def add(self, prompt: Prompt, clip: np.ndarray) -> None:
    """clip: uint8 [T, H, W, 3]."""
    ...

  def figures(self) -> dict[str, Any]:
    """The figures over all clips, by name, as JSON has them."""
    ...


class Adherence:
  """Rates of each group of prompts, as ivid.evaluate.summary has them, and `all`: of all clips, those that show all of it."""

  def __init__(self, occasion: Occasion):
    check(np.zeros(occasion.shape.array, np.uint8))
    self._groups: list[str] = []
    self._right: list[dict[str, bool | None]] = []

  def add(self, prompt: Prompt, clip: np.ndarray) -> None:
    self._groups.append(prompt.group)
    self._right.append(judge(prompt, clip).right)

  def figures(self) -> dict[str, Any]:
    groups = summarize(self._groups, self._right)
    return dict(all=rate(sum(bool(right["all"]) for right in self._right), len(self._right)), groups=groups)


class Frechet:
  """FVD with its interval and convention (ivid.evaluate.fvd), from real clips of the same groups of prompts."""

  def __init__(self, occasion: Occasion):
    self._occasion, self._convention = occasion, Convention(occasion.shape)
    count = occasion.wanted.real_clips or len(occasion.prompts)
    groups = [name for name in GROUPS if any(prompt.group == name for prompt in occasion.prompts)]
    source = occasion.wanted.real
    self._real = real_clips(source, occasion.shape, count=count, aspect=occasion.aspect, groups=groups, seed=occasion.seed)
    check_fvd_clips("the set of prompts", len(occasion.prompts))
    check_fvd_clips(self._real.name, self._real.count)
    i3d.find_weights()
    self._extract: Extractor | None = None
    self._waiting: list[np.ndarray] = []
    self._made: list[np.ndarray] = []

  def add(self, prompt: Prompt, clip: np.ndarray) -> None:
    del prompt
    self._waiting.append(clip)
    if self._extract is None:
      self._extract = Extractor(self._convention, i3d.load_i3d())
    if len(self._waiting) == self._extract.batch:
      self._flush()

  def figures(self) -> dict[str, Any]:
    self._flush()
    real = Features(self._real, self._convention, self._occasion.features)
    real.fill(i3d.load_i3d)
    found = measure(np.concatenate(self._made), real.read(), seed=self._occasion.seed)
    return dataclasses.asdict(found) | dict(real=self._real.name, real_clips=self._real.count, convention=self._convention.record)

  def _flush(self) -> None:
    if self._waiting and self._extract is not None:
      self._made.append(self._extract(self._waiting))
      self._waiting.clear()


class Retrieval:
  """The figures of ivid.evaluate.retrieval, by the network that ships."""

  def __init__(self, occasion: Occasion):
    check_prompts([prompt.text for prompt in occasion.prompts])
    self._network = shipped_network()
    self._texts: list[str] = []
    self._clips: list[np.ndarray] = []

  def add(self, prompt: Prompt, clip: np.ndarray) -> None:
    self._texts.append(prompt.text)
    self._clips.append(fitted(clip, self._network.spec.clip))

  def figures(self) -> dict[str, Any]:
    scores = score_clips(self._network, self._network.clips(self._clips), self._texts)
    return scores.figures | dict(network=self._network.hash)


@dataclasses.dataclass(frozen=True)
class MeterKind:
  """`column`: the head of its column in a table; `shown`: figures -> the cell; `make`: makes the meter."""

  column: str
  shown: Callable[[dict[str, Any]], str]
  make: Callable[[Occasion], Meter]


def _share(found: dict[str, Any]) -> str:
  return f"{100 * found['rate']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


METERS = {
  ADHERENCE: MeterKind("all right, % (95%)", lambda found: _share(found["all"]), Adherence),
  FVD: MeterKind("FVD (95%)", lambda found: f"{found['value']:.1f} ({found['low']:.1f} to {found['high']:.1f})", Frechet),
  RETRIEVAL: MeterKind("retrieval (R@1, %)", lambda found: f"{found['score']:.3f} ({100 * found['r_at_1']:.1f})", Retrieval),
}
