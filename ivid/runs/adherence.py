"""Adherence during training: how often the clips and single images of the EMA weights show what their prompts say."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
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
Sampled = Callable[[Weights], Iterator[tuple[Prompt, np.ndarray]]]


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
  check(np.zeros(stage.spec.output.array, np.uint8))  # fails before the training instead of after it
  return _curve(CLIPS, sampled_prompts(CLIPS, stage, run, encoder))


def make_image_adherence(stage: Stage, run: RunSpec, encoder: Embedder) -> Curve:
  """Hook that returns adherence_images/GROUP/ATTRIBUTE of single images of a base, of prompts without motion; otherwise as make_adherence.

  Raises:
    UserError: the stage's images are too small to be judged.
  """
  spec = training_view(stage.spec, TrainSpec(frames=1))
  check_image(np.zeros(spec.output.array[1:], np.uint8))
  return _curve(IMAGES, sampled_prompts(IMAGES, Stage(spec), run, encoder, images=True))


def sampled_prompts(name: str, stage: Stage, run: RunSpec, encoder: Embedder, *, images: bool = False) -> Sampled:
  """Function that samples run.train.adherence_prompts prompts per group, always the same ones, and yields each with its clip.

  A super-resolution stage starts from drawn scenes of the prompts at its input size.

  Args:
    name: of the stream of the samples' keys.
    images: whether the prompts are of images, without motion.
  """
  train, lowres = run.train, stage.spec.lowres
  prompts = seeded_prompts(train.seed, train.adherence_prompts, images=images)
  sampling = dataclasses.replace(stage.spec.sampling, steps=train.sample_steps)
  with alone():
    text, mask = encoder.embed([prompt.text for prompt in prompts], length=run.cascade.text.max_tokens)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(stream(train.seed, name), np.arange(len(prompts)))
  batch = min(train.num_samples, len(prompts))

  def small(rows: np.ndarray) -> np.ndarray | None:
    """The inputs [B, t, h, w, 3] of the prompts with these numbers; None in a base."""
    if lowres is None:
      return None
    size = lowres.input
    times = np.arange(size.frames) * (CLIP_SECONDS / size.frames)
    scenes = [make_scene(train.seed, int(n), aspect=run.data.aspect or size.width / size.height, said=prompts[n].attributes) for n in rows]
    return np.stack([draw(scene, times=times, height=size.height, width=size.width) for scene in scenes]) / 127.5 - 1.0

  def sample(state: Weights) -> Iterator[tuple[Prompt, np.ndarray]]:
    params = on_host(state.ema)
    for start in range(0, len(prompts), batch):
      rows = np.arange(start, start + batch) % len(prompts)  # the last batch is filled up, so that one program serves all batches
      given: dict[str, Any] = dict(text=text[rows][:, None], text_mask=mask[rows][:, None], small=small(rows))
      with alone():
        clips = to_uint8(sample_stage(stage, params, keys=keys[rows], sampling=sampling, **given))
      yield from ((prompts[n], clip) for n, clip in zip(rows[: len(prompts) - start], clips, strict=False))

  return sample


def _curve(name: str, sample: Sampled) -> Curve:
  """Hook that returns name/GROUP/ATTRIBUTE of the sampled prompts."""

  def call(step: int, state: Weights) -> dict[str, float]:
    del step
    started = time.monotonic()
    results = [judge(prompt, clip) for prompt, clip in sample(state)]
    summary = summarize([result.prompt.group for result in results], [result.right for result in results])
    rates = {f"{name}/{group}/{attribute}": rate["rate"] for group, found in summary.items() for attribute, rate in found.items()}
    rates = {key: rate for key, rate in rates.items() if rate is not None}  # None if, for example, no prompt has a letter
    return rates | {f"perf/{name}_seconds": time.monotonic() - started}

  return call
