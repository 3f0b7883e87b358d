"""`ivid data prepare`: shows progress, and then a summary."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from ivid.data.moving_shapes_builder import make_builder
from ivid.data.moving_shapes_builder import prepare as write
from ivid.data.prepare import prepare
from ivid.data.sizes import clip_shape
from ivid.parallel import signals
from ivid.spec.prepare import PrepareSpec
from ivid.train.progress import Progress

CLIPS, TEST_CLIPS = 1000, 100  # numbers drawn by default


def prepare_files(spec: PrepareSpec, out: str | os.PathLike[str], **options: Any) -> str:
  """Prepares a data set with a progress bar over shards, and returns a summary. Options and errors: ivid.data.prepare.prepare."""
  with contextlib.ExitStack() as stack:
    bar = None  # none where nothing is missing

    stack.enter_context(signals.listening())

    def progress(done: int, total: int) -> None:
      nonlocal bar
      signals.end_if_asked()  # finished shards are complete
      if bar is None and total:
        bar = stack.enter_context(Progress(total=total, initial=done, unit="shard"))
      elif bar is not None:
        bar.update(done)

    folder, summary = prepare(spec, os.fspath(out), progress=progress, **options)
  if summary is None:
    return f"prepared this process's shards of {folder}; the process that is last, or the same command again, puts them together"
  return f"{summary}\nwrote {folder}; read it with --config.data.name=tfds:{spec.name} --config.data.dir={os.fspath(out)}"


def draw(
  out: str | os.PathLike[str],
  *,
  size: str,
  fps: float | None,
  num_clips: int | None,
  num_test: int,
  seed: int,
  process: tuple[int, int] | None = None,
) -> str:
  """Writes drawn clips and returns a summary. `num_test` below 0, and no `num_clips`, mean the defaults.

  If there are several processes, the first one draws everything.
  """
  if process and process[0]:
    return f"process {process[0]}/{process[1]}: nothing to do, as process 0 draws all clips: --input has shares"
  shape = clip_shape(size, fps)
  builder = make_builder(out, shape, num_clips=num_clips or CLIPS, num_test=TEST_CLIPS if num_test < 0 else num_test, seed=seed)
  return f"wrote {write(builder)}; read it with --config.data.name=tfds:{builder.name}/{shape.size} --config.data.dir={out}"
