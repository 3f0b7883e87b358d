"""The speed of a training run's input on one core, for `ivid bench data`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from ivid.data.view import frame_times
from ivid.spec.errors import UserError
from ivid.spec.run import Draw, RunSpec

if TYPE_CHECKING:
  from ivid.data.sources import MovingShapes
  from ivid.text.embedder import Embedder

EXAMPLES = 32  # number of examples timed together
DRAWN = 4  # number of these drawn by the devices, which draw everything everywhere and take longer unless they are accelerators
CAPTIONS = 64


def bench_data(run: RunSpec, *, repeats: int) -> Iterator[dict[str, Any]]:
  """Seconds of processor time per example: one row each for images, for clips with a quarter of the frames and for whole clips.

  This times whole examples (scene, caption, drawing), the drawing by itself, and examples without drawing, which is the work that
  data.draw=device leaves to the feeding processes. It also times the drawing by devices (here in processor time, too) and looking up the
  embeddings of captions. Examples differ between repetitions. Text is embedded beforehand; `ivid bench text` times the encoder.
  """
  if run.data.name != "moving_shapes":
    raise UserError(f"data.name={run.data.name!r}: expected moving_shapes, which is drawn on the fly")
  from ivid.runs.text import open_text

  embedder = open_text(run)
  for frames in _views(run.cascade.stage(run.stage).output.frames):
    yield _bench_view(run, embedder, frames, repeats=repeats)


def _bench_view(run: RunSpec, embedder: Embedder, frames: int, *, repeats: int) -> dict[str, Any]:
  """The row for examples with so many frames of the clip."""
  import jax
  import numpy as np

  from ivid.data.example import Split
  from ivid.data.frames import draw_frames
  from ivid.data.sources import make_source
  from ivid.moving_shapes.draw import draw
  from ivid.programs import Program

  stage, tokens = run.cascade.stage(run.stage), run.cascade.text.max_tokens
  crop = dataclasses.replace(run.train.crop, frames=min(run.train.crop.frames, frames))
  train = dataclasses.replace(run.train, frames=frames, image_fraction=0.0, crop=crop)
  given: dict[str, Any] = dict(train=train, stage=stage, split=Split.TRAIN)
  sources = (make_source(data=dataclasses.replace(run.data, draw=where), **given) for where in (Draw.HOST, Draw.DEVICE))
  source, undrawn = cast("Iterator[MovingShapes]", sources)
  view = source.view
  by_devices = Program("draw", functools.partial(draw_frames, view=view)).jit()
  size: dict[str, Any] = dict(height=view.clip.height, width=view.clip.width, crop=(0, 0, view.height, view.width))
  times = frame_times(view, 0) if frames > 1 else np.array([view.clip.seconds / 2])
  seconds: dict[str, list[float]] = {}

  @contextlib.contextmanager
  def timed(name: str, count: int) -> Iterator[None]:
    """Measures the processor time of the body, which makes `count` examples."""
    start = time.process_time()
    yield
    seconds.setdefault(name, []).append((time.process_time() - start) / count)

  for turn in range(1 + repeats):
    part = range(turn * EXAMPLES, (turn + 1) * EXAMPLES)
    with timed("example", EXAMPLES):
      examples = [source[index] for index in part]
    scenes = [source.scene(index) for index in part]
    with timed("draw", EXAMPLES):
      for scene in scenes:
        draw(scene, times=times, **size)
    with timed("scene", EXAMPLES):
      packed = [undrawn[index].video for index in part]
    with timed("devices", DRAWN):
      jax.block_until_ready(by_devices(np.stack(packed[:DRAWN])))
    captions = [text for example in examples for text in example.captions]
    captions = (captions * CAPTIONS)[:CAPTIONS]
    embedder.embed(captions, length=tokens)  # loads into memory what is on disk or not in a pool
    with timed("text", CAPTIONS):
      embedder.embed(captions, length=tokens)
  medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
  return {
    "view": f"{frames} of {stage.output.frames} frames" if frames > 1 else "images",
    "size": f"{view.frames}x{view.height}x{view.width}",
    "caption_pool": run.data.caption_pool,
    "seconds": medians,
    "examples_per_second": 1.0 / (medians["example"] + medians["text"]),
  }


def _views(frames: int) -> list[int]:
  return sorted({1, frames // 4 if frames % 4 == 0 else frames, frames})


def format_header() -> str:
  return (
    f"{'view':16} {'size':>12} {'examples/s':>10} {'example':>9} {'drawing':>9} {'scene':>9} {'jit':>9} {'text':>9}"
    "  (ms of one core; an example is a scene and its drawing; jit: data.draw=device)"
  )


def format_row(row: dict[str, Any]) -> str:
  ms = {name: 1e3 * value for name, value in row["seconds"].items()}
  figures = " ".join(f"{ms[name]:>9.3f}" for name in ("example", "draw", "scene", "devices", "text"))
  return f"{row['view']:16} {row['size']:>12} {row['examples_per_second']:>10.0f} {figures}"
