"""Adherence during training: how often the clips of the EMA weights show what their prompts say."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

from ivid.data.draw import draw
from ivid.data.moving_shapes import CLIP_SECONDS, make_scene
from ivid.evaluate import report
from ivid.evaluate.adherence import check
from ivid.evaluate.prompts import seeded_prompts
from ivid.evaluate.summary import summarize
from ivid.media.clips import to_uint8
from ivid.parallel.distributed import alone, on_host
from ivid.sample.stage_sampler import sample_stage
from ivid.spec.run import RunSpec
from ivid.stage import Stage
from ivid.steps import TrainState
from ivid.text.embedder import Embedder
from ivid.train.rngs import stream


def make_adherence(stage: Stage, run: RunSpec, encoder: Embedder) -> Callable[[int, TrainState], dict[str, float]]:
  """Hook that returns adherence/GROUP/ATTRIBUTE over run.train.adherence_prompts prompts of each group, the same ones every time.

  A super-resolution stage gets drawn scenes of the prompts at its input's size.

  Raises:
    ValueError: the stage's clips are too short or too small to be judged.
  """
  train, spec = run.train, stage.spec
  check(np.zeros(spec.output.array, np.uint8))  # refuses before the training what it would refuse after
  prompts = seeded_prompts(train.seed, train.adherence_prompts)
  sampling = dataclasses.replace(spec.sampling, steps=train.sample_steps)
  with alone():
    text, mask = encoder.embed([prompt.text for prompt in prompts], length=run.cascade.text.max_tokens)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(stream(train.seed, "adherence"), np.arange(len(prompts)))
  batch = min(train.num_samples, len(prompts))

  def small(rows: np.ndarray) -> np.ndarray | None:
    if spec.lowres is None:
      return None
    size = spec.lowres.input
    times = np.arange(size.frames) * (CLIP_SECONDS / size.frames)
    scenes = [make_scene(train.seed, int(n), aspect=run.data.aspect or size.width / size.height, said=prompts[n].attributes) for n in rows]
    return np.stack([draw(scene, times=times, height=size.height, width=size.width) for scene in scenes]) / 127.5 - 1.0

  def call(step: int, state: TrainState) -> dict[str, float]:
    del step
    started = time.monotonic()
    params = on_host(state.ema)
    results = []
    for start in range(0, len(prompts), batch):
      rows = np.arange(start, start + batch) % len(prompts)  # the last batch is filled up, so that one program serves all
      given = dict(text=text[rows][:, None], text_mask=mask[rows][:, None], small=small(rows))
      with alone():
        clips = to_uint8(sample_stage(stage, params, keys=keys[rows], sampling=sampling, **given))
      results += [report.judge(prompts[n], clip) for n, clip in zip(rows[: len(prompts) - start], clips, strict=False)]
    summary = summarize([result.prompt.group for result in results], [result.right for result in results])
    rates = {f"adherence/{group}/{name}": rate["rate"] for group, found in summary.items() for name, rate in found.items()}
    return rates | {"perf/adherence_seconds": time.monotonic() - started}

  return call
