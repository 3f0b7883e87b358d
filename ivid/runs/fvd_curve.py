"""FVD during training: the distance between the validation clips and clips that the EMA weights make of their captions."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from ivid.evaluate import i3d
from ivid.evaluate.features import Convention, Extractor
from ivid.evaluate.frechet import measure
from ivid.nets.i3d import MIN_FRAMES
from ivid.parallel.distributed import alone, is_first, on_host
from ivid.runs.curve import Curve, Weights
from ivid.runs.samples import held_out_clips
from ivid.spec.run import RunSpec
from ivid.spec.view import training_view
from ivid.stage import Stage
from ivid.text.embedder import Embedder
from ivid.weights.ema import say


def fvd_curves(stage: Stage, run: RunSpec, encoder: Embedder) -> list[Curve]:
  """The hook that returns fvd/value and its uncertainty over run.train.fvd_clips clips; none in phases with clips too short for I3D.

  The clips are of the first validation captions, the same ones every time, and a super-resolution stage starts from the validation clips,
  shrunk. Their size is that of the training (its crop).

  Raises:
    UserError: before anything is sampled, if the stage's clips are too short for I3D, or there are no weights of I3D.
  """
  Convention(stage.spec.output)  # too short even as a whole
  if training_view(stage.spec, run.train).output.frames < MIN_FRAMES:
    return []
  count, batch = run.train.fvd_clips, min(run.train.num_samples, run.train.fvd_clips)
  with alone():
    held_out = held_out_clips(stage.spec, run, encoder, count)
  convention = Convention(held_out.view.output)
  params = i3d.load_i3d()
  say(f"fvd of {count} validation clips: {convention}")
  sampling = dataclasses.replace(held_out.view.sampling, steps=run.train.sample_steps)
  real: list[np.ndarray] = []  # features, computed when they are first needed

  def call(step: int, state: Weights) -> dict[str, float]:
    del step
    started = time.monotonic()
    weights, made = on_host(state.ema), []
    for start in range(0, count, batch):
      rows = [n % count for n in range(start, start + batch)]  # the last batch is filled up, so that one program serves all
      with alone():
        made += list(held_out.rows(rows).sample(weights, held_out.view, sampling))[: count - start]
    if not is_first():
      return {}
    with alone():
      extract = Extractor(convention, params)
      features = lambda clips: np.concatenate([extract(clips[n : n + extract.batch]) for n in range(0, count, extract.batch)])  # noqa: E731
      if not real:
        real.append(features(held_out.real))
      found = measure(features(made), real[0], seed=run.train.seed)
    figures = {f"fvd/{name}": getattr(found, name) for name in ("value", "low", "high", "infinite")}
    return figures | {"perf/fvd_seconds": time.monotonic() - started}

  return [call]
