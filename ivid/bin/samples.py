"""Sample clips during training: what the EMA weights make of the first validation captions, beside the real clips."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np

from ivid.data.pipeline import Split, make_pipeline
from ivid.media.clips import from_uint8, to_uint8, write_clip
from ivid.media.pictures import write_png
from ivid.media.sheet import contact_sheet
from ivid.sample.stage_sampler import sample_stage
from ivid.spec.run import RunSpec
from ivid.stage import Stage
from ivid.steps import TrainState
from ivid.text.encoder import TextEncoder
from ivid.train.metrics import MetricWriter
from ivid.train.rngs import stream
from ivid.train.view import training_view
from ivid.video import lowres as lowres_video

SHEET_COLUMNS = 8


def make_sampler(
  stage: Stage, run: RunSpec, encoder: TextEncoder, workdir: pathlib.Path, writer: MetricWriter
) -> Callable[[int, TrainState], dict[str, float]]:
  """Hook that writes samples/<step>.png and .mp4: conditioning (if any), sample and real clip of each validation caption."""
  train = run.train
  spec = training_view(stage.spec, train)
  count = train.num_samples
  videos = dataclasses.replace(train, image_fraction=0.0, batch_size=count, accumulation=1)
  host = make_pipeline(data=run.data, train=videos, stage=stage.spec, start_step=0, split=Split.EVAL, process_index=0, process_count=1)
  batch = next(iter(itertools.islice(host, 1)))
  captions = [row[0] for row in batch["captions"]]
  text, mask = encoder.embed(captions, length=run.cascade.text.max_tokens)
  real = np.asarray(batch["video"])
  small = None if spec.lowres is None else np.asarray(lowres_video.shrink(from_uint8(real), spec.lowres, spec.output))
  sampling = dataclasses.replace(spec.sampling, steps=train.sample_steps)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(stream(train.seed, "samples"), np.arange(count))

  def call(step: int, state: TrainState) -> dict[str, float]:
    started = time.monotonic()
    params = jax.tree.map(np.asarray, state.ema)
    clips = to_uint8(
      sample_stage(Stage(spec), params, keys=keys, text=text[:, None], text_mask=mask[:, None], sampling=sampling, small=small)
    )
    rows, titles = [], []
    for i, caption in enumerate(captions):
      if small is not None:
        rows.append(to_uint8(np.repeat(small[i], spec.time_factor, axis=0)))
        titles.append("input: " + caption)
      rows += [clips[i], real[i]]
      titles += ["sample: " + caption, "real"]
    sheet = contact_sheet(rows, captions=titles, columns=SHEET_COLUMNS, scale=2 if spec.output.width < 100 else 1, header=f"step {step}")
    folder = workdir / "samples"
    folder.mkdir(exist_ok=True)
    write_png(folder / f"{step:08d}.png", sheet)
    if clips.shape[1] > 1:
      write_clip(folder / f"{step:08d}.mp4", np.concatenate(list(clips), axis=2), spec.output.fps)
    writer.write_image(step, "samples", sheet)
    return {"perf/sampling_seconds": time.monotonic() - started}

  return call
