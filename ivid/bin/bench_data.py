"""Speed of a training run's input on one core, for `ivid bench data`."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from ivid.spec.run import RunSpec

EXAMPLES = 32  # timed together
CAPTIONS = 64


def bench_data(run: RunSpec, *, repeats: int) -> Iterator[dict[str, Any]]:
  """Seconds of processor time for an example: a row for images, for clips of a quarter of the frames and for whole clips.

  Timed are whole examples (scene, caption, drawing) and the drawing alone, of examples that differ from one repetition to the next, and
  looking up their captions' embeddings. Text that has to be embedded is so before; the encoder's own time is that of `ivid bench text`.
  """
  if run.data.name != "moving_shapes":
    raise ValueError(f"data.name={run.data.name!r}: expected moving_shapes, which is drawn on the fly")
  import numpy as np

  from ivid.bin.captions import open_text
  from ivid.data.draw import draw
  from ivid.data.example import Split
  from ivid.data.sources import make_source

  stage, tokens = run.cascade.stage(run.stage), run.cascade.text.max_tokens
  embedder = open_text(run)
  for frames in _views(stage.output.frames):
    crop = dataclasses.replace(run.train.crop, frames=min(run.train.crop.frames, frames))
    train = dataclasses.replace(run.train, frames=frames, image_fraction=0.0, crop=crop)
    source = make_source(data=run.data, train=train, stage=stage, split=Split.TRAIN)
    view = source.view
    size = dict(height=view.clip.height, width=view.clip.width, crop=(0, 0, view.height, view.width))
    numbers = itertools.count()
    timed: dict[str, list[float]] = {"example": [], "draw": [], "text": []}
    for _ in range(1 + repeats):
      part = list(itertools.islice(numbers, EXAMPLES))
      examples, seconds = _timed(lambda part=part, source=source: [source[index] for index in part])
      timed["example"].append(seconds / EXAMPLES)
      scenes = [source.scene(index) for index in part]
      times = view.times(0) if frames > 1 else np.array([view.clip.seconds / 2])
      timed["draw"].append(_timed(lambda s=scenes, t=times, k=size: [draw(scene, times=t, **k) for scene in s])[1] / EXAMPLES)
      captions = [text for example in examples for text in example.captions]
      captions = (captions * CAPTIONS)[:CAPTIONS]
      embedder.embed(captions, length=tokens)  # brings what is on disk, or no pool has, into memory
      timed["text"].append(_timed(lambda c=captions: embedder.embed(c, length=tokens))[1] / CAPTIONS)
    seconds = {name: statistics.median(values[1:]) for name, values in timed.items()}
    yield {
      "view": f"{frames} of {stage.output.frames} frames" if frames > 1 else "images",
      "size": f"{view.frames}x{view.height}x{view.width}",
      "caption_pool": run.data.caption_pool,
      "seconds": seconds,
      "examples_per_second": 1.0 / (seconds["example"] + seconds["text"]),
    }


def _views(frames: int) -> list[int]:
  return sorted({1, frames // 4 if frames % 4 == 0 else frames, frames})


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
  """What the call returns, and the processor time it took."""
  start = time.process_time()
  found = call()
  return found, time.process_time() - start


def format_header() -> str:
  return (
    f"{'view':16} {'size':>12} {'examples/s':>10} {'example':>9} {'drawing':>9} {'text':>9}  (ms of one core; drawing is part of example)"
  )


def format_row(row: dict[str, Any]) -> str:
  ms = {name: 1e3 * value for name, value in row["seconds"].items()}
  return (
    f"{row['view']:16} {row['size']:>12} {row['examples_per_second']:>10.0f} {ms['example']:>9.3f} {ms['draw']:>9.3f} {ms['text']:>9.3f}"
  )
