"""A cascade with its text encoder and all of its stages in memory: what a clip takes when nothing is left to be read or compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ivid.sample.cascades import load_text
from ivid.sample.keys import Sample, sample_keys
from ivid.sample.longer import at_once, cut_stage, sample_length
from ivid.sample.running import place_params
from ivid.spec.stage import StageSpec
from ivid.stage import Stage
from ivid.weights.cascades import CascadeFolder


class Loaded:
  """The clips are those of ivid.sample.runner.run_cascade for the same samples, up to float32 rounding."""

  def __init__(self, cascade: CascadeFolder, stages: Sequence[StageSpec]):
    """Reads all weights. Raises UserError as run_cascade, of weights and the text encoder."""
    self._cascade, self._stages = cascade, tuple(stages)
    self._encoder = load_text(cascade, tuple(spec.name for spec in stages))
    self._params = {spec.name: place_params(Stage(at_once(cascade, spec)), cascade.load_stage(spec.name)) for spec in stages}

  def warm_up(self, samples: Sequence[Sample]) -> None:
    """Compiles everything for so many samples: in one step of each stage, which serves any number, but for students of a number."""
    self._make(samples, [spec if spec.student else _in_one_step(spec) for spec in self._stages])

  def make(self, samples: Sequence[Sample]) -> np.ndarray:
    """The last stage's clips [B, T, H, W, 3] uint8 of the samples, computed together."""
    return self._make(samples, self._stages)

  def _make(self, samples: Sequence[Sample], stages: Sequence[StageSpec]) -> np.ndarray:
    text, mask = self._encoder.embed([sample.prompt for sample in samples])
    clips: Any = None
    for spec in stages:
      clips = sample_length(
        Stage(at_once(self._cascade, spec)),
        self._params[spec.name],
        keys=sample_keys(samples, spec.name),
        frames=spec.output.frames,
        small=clips,
        text=text[:, None],
        text_mask=mask[:, None],
        sampling=spec.sampling,
        tiling=cut_stage(self._cascade, spec, (), clips=len(samples)),
      )
    return clips


def _in_one_step(spec: StageSpec) -> StageSpec:
  return dataclasses.replace(spec, sampling=dataclasses.replace(spec.sampling, steps=1))
