"""Adherence during training: how often the clips and single images of the EMA weights show what their prompts say."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ivid.evaluate.adherence import judge
from ivid.evaluate.prompts import Prompt, seeded_prompts
from ivid.evaluate.summary import summarize
from ivid.media.clips import to_uint8
from ivid.moving_shapes.draw import draw
from ivid.moving_shapes.image_observer import check_image
from ivid.moving_shapes.observer import MIN_FRAMES, check
from ivid.moving_shapes.scene import CLIP_SECONDS, make_scene
from ivid.parallel.distributed import alone, on_host
from ivid.runs.curve import Curve, Weights
from ivid.sample.stage_sampler import sample_stage
from ivid.spec.run import RunSpec, TrainSpec
from ivid.spec.view import training_view
from ivid.stage import Stage
from ivid.text.embedder import Embedder
from ivid.train.rngs import stream

CLIPS, IMAGES = "adherence", "adherence_images"


def adherence_curves(stage: Stage, run: RunSpec, encoder: Embedder) -> list[Curve]:
  """The hooks for a stage's training: for images in a base, and for clips unless a base trains on too few frames to judge motion.

  Raises:
    UserError: the stage's clips or images are too short or too small to judge.
  """
  spec = stage.spec
  makers = [make_image_adherence] if spec.lowres is None and run.data.name == "moving_shapes" else []
  if not makers or training_view(spec, run.train).output.frames >= MIN_FRAMES:
    makers.append(make_adherence)
  return [make(stage, run, encoder) for make in makers]


def make_adherence(stage: Stage, run: RunSpec, encoder: Embedder) -> Curve:
  """Hook that returns adherence/GROUP/ATTRIBUTE over run.train.adherence_prompts prompts per group, always the same ones.

  A super-resolution stage starts from drawn scenes of the prompts at its input size.

  Raises:
    UserError: the stage's clips are too short or too small to be judged.
  """
  train, lowres = run.train, stage.spec.lowres
  check(np.zeros(stage.spec.output.array, np.uint8))  # fails before the training instead of after it
  prompts = seeded_prompts(train.seed, train.adherence_prompts)

  def small(rows: np.ndarray) -> np.ndarray:
    size = lowres.input
    times = np.arange(size.frames) * (CLIP_SECONDS / size.frames)
    scenes = [make_scene(train.seed, int(n), aspect=run.data.aspect or size.width / size.height, said=prompts[n].attributes) for n in rows]
    return np.stack([draw(scene, times=times, height=size.height, width=size.width) for scene in scenes]) / 127.5 - 1.0

  return _curve(CLIPS, stage, run, encoder, prompts, None if lowres is None else small)


def make_image_adherence(stage: Stage, run: RunSpec, encoder: Embedder) -> Curve:
  """Hook that returns adherence_images/GROUP/ATTRIBUTE of single images of a base, of prompts without motion; otherwise as make_adherence.

  Raises:
    UserError: the stage's images are too small to be judged.
  """
  train = run.train
  spec = training_view(stage.spec, TrainSpec(frames=1))
  check_image(np.zeros(spec.output.array[1:], np.uint8))
  return _curve(IMAGES, Stage(spec), run, encoder, seeded_prompts(train.seed, train.adherence_prompts, images=True))


def _curve(
  name: str,
  stage: Stage,
  run: RunSpec,
  encoder: Embedder,
  prompts: Sequence[Prompt],
  small: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Curve:
  """Hook that samples `prompts` and returns name/GROUP/ATTRIBUTE. `small`: inputs [B, t, h, w, 3] of the prompts with these numbers."""
  train = run.train
  sampling = dataclasses.replace(stage.spec.sampling, steps=train.sample_steps)
  with alone():
    text, mask = encoder.embed([prompt.text for prompt in prompts], length=run.cascade.text.max_tokens)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(stream(train.seed, name), np.arange(len(prompts)))
  batch = min(train.num_samples, len(prompts))

  def call(step: int, state: Weights) -> dict[str, float]:
    del step
    started = time.monotonic()
    params = on_host(state.ema)
    results = []
    for start in range(0, len(prompts), batch):
      rows = np.arange(start, start + batch) % len(prompts)  # the last batch is filled up, so that one program serves all batches
      given: dict[str, Any] = dict(text=text[rows][:, None], text_mask=mask[rows][:, None], small=small and small(rows))
      with alone():
        clips = to_uint8(sample_stage(stage, params, keys=keys[rows], sampling=sampling, **given))
      results += [judge(prompts[n], clip) for n, clip in zip(rows[: len(prompts) - start], clips, strict=False)]
    summary = summarize([result.prompt.group for result in results], [result.right for result in results])
    rates = {f"{name}/{group}/{attribute}": rate["rate"] for group, found in summary.items() for attribute, rate in found.items()}
    rates = {key: rate for key, rate in rates.items() if rate is not None}  # None if, for example, no prompt has a letter
    return rates | {f"perf/{name}_seconds": time.monotonic() - started}

  return call
