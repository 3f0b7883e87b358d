"""Sample clips during training: what the EMA weights make of the first validation captions, next to the real clips."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ivid.data.example import index_words
from ivid.data.pipeline import Split, make_pipeline
from ivid.media.clips import from_uint8, to_uint8, write_clip
from ivid.media.pictures import write_png
from ivid.media.sheet import contact_sheet
from ivid.parallel.distributed import alone, is_first, on_host
from ivid.sample.stage_sampler import sample_stage
from ivid.spec import batch as batches
from ivid.spec.run import RunSpec
from ivid.spec.sampling import SamplingSpec
from ivid.spec.stage import StageSpec
from ivid.spec.view import of_clips, training_view
from ivid.stage import Stage
from ivid.steps import TrainState
from ivid.text.embedder import Embedder
from ivid.train.metrics import MetricWriter
from ivid.train.rngs import stream
from ivid.video import lowres as lowres_video

SHEET_COLUMNS = 8
SAMPLES = "samples"  # in a work folder, and of a tracker's pictures


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """The first clips of the validation set, to which samples are compared.

  Attributes:
    view: the stage at its training size.
    captions: N.
    real: [N, T, H, W, 3] uint8.
    small: [N, t, h, w, 3] in [-1, 1], from which a super-resolution stage starts; None in the base.
    text, mask: [N, L, D] and [N, L].
    keys: [N], of the samples.
  """

  view: StageSpec
  captions: list[str]
  real: np.ndarray
  small: np.ndarray | None
  text: np.ndarray
  mask: np.ndarray
  keys: jax.Array

  def sample(self, params: Any, spec: StageSpec, sampling: SamplingSpec) -> np.ndarray:
    """Clips [N, T, H, W, 3] uint8 sampled with these parameters; `spec` has the size of `view`."""
    text: dict[str, Any] = dict(text=self.text[:, None], text_mask=self.mask[:, None])
    return to_uint8(sample_stage(Stage(spec), params, keys=self.keys, sampling=sampling, small=self.small, **text))

  def rows(self, which: Sequence[int]) -> HeldOut:
    """Those of these numbers."""
    at = np.asarray(which)  # lists are no index of JAX's arrays
    small = None if self.small is None else self.small[at]
    captions = [self.captions[n] for n in which]
    return HeldOut(self.view, captions, self.real[at], small, self.text[at], self.mask[at], self.keys[at])

  def batch(self) -> dict[str, np.ndarray]:
    """The clips as a training batch (ivid.spec.batch)."""
    count = len(self.captions)
    return {
      batches.VIDEO: self.real,
      batches.TEXT: self.text[:, None],
      batches.TEXT_MASK: self.mask[:, None],
      batches.IS_VIDEO: np.ones(count, bool),
      batches.FPS: np.full(count, self.view.output.fps, np.float32),
      batches.INDEX: index_words(range(count)),
    }

  def inputs(self, clips: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[str]]:
    """Rows and titles of a contact sheet: per caption the input, if any, and each of `clips` by title."""
    rows, titles = [], []
    for i, caption in enumerate(self.captions):
      if self.small is not None:
        rows.append(to_uint8(np.repeat(self.small[i], self.view.time_factor, axis=0)))
        titles.append("input")
      rows += [made[i] for made in clips.values()]
      titles += list(clips)
      first = len(titles) - len(clips) - (self.small is not None)
      titles[first] += ": " + caption
    return rows, titles


def held_out_clips(stage: StageSpec, run: RunSpec, encoder: Embedder, count: int) -> HeldOut:
  """The first `count` clips of the validation set."""
  spec = training_view(stage, run.train)
  videos = dataclasses.replace(of_clips(run.train, stage), image_fraction=0.0, batch_size=count, accumulation=1)
  host = make_pipeline(data=run.data.in_process(), train=videos, stage=stage, start_step=0, split=Split.EVAL)
  batch = next(iter(itertools.islice(host, 1)))
  captions = [row[0] for row in batch["captions"]]
  text, mask = encoder.embed(captions, length=run.cascade.text.max_tokens)
  real = np.asarray(batch["video"])
  small = None if spec.lowres is None else np.asarray(lowres_video.shrink(from_uint8(real), spec.lowres, spec.output))
  keys = jax.vmap(jax.random.fold_in, (None, 0))(stream(run.train.seed, "samples"), np.arange(count))
  return HeldOut(spec, captions, real, small, text, mask, keys)


def make_sampler(
  stage: Stage, run: RunSpec, encoder: Embedder, workdir: pathlib.Path, writer: MetricWriter
) -> Callable[[int, TrainState], dict[str, float]]:
  """Hook that writes samples/<step>.png and .mp4: conditioning (if any), sample and real clip of each validation caption."""
  with alone():
    held_out = held_out_clips(stage.spec, run, encoder, run.train.num_samples)
  spec = held_out.view
  sampling = dataclasses.replace(spec.sampling, steps=run.train.sample_steps)

  def call(step: int, state: TrainState) -> dict[str, float]:
    started = time.monotonic()
    params = on_host(state.ema)
    with alone():
      clips = held_out.sample(params, spec, sampling)  # every process makes the same clips, so that none waits for another
    if not is_first():
      return {}
    rows, titles = held_out.inputs({"sample": clips, "real": held_out.real})
    sheet = contact_sheet(rows, captions=titles, columns=SHEET_COLUMNS, scale=2 if spec.output.width < 100 else 1, header=f"step {step}")
    folder = workdir / SAMPLES
    folder.mkdir(exist_ok=True)
    write_png(folder / f"{step:08d}.png", sheet)
    if clips.shape[1] > 1:
      write_clip(folder / f"{step:08d}.mp4", np.concatenate(list(clips), axis=2), spec.output.fps)
    writer.write_image(step, SAMPLES, sheet)
    return {"perf/sampling_seconds": time.monotonic() - started}

  return call
