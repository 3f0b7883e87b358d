"""Work in numbered parts, done by processes on this machine or by Apache Beam. Each part writes its result unless it already exists."""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence

from ivid.parallel.signals import held_back
from ivid.spec.errors import UserError

WATCH_SECONDS = 2.0

Progress = Callable[[int, int], None]


def run(
  work: Callable[[int], None],
  parts: Sequence[int],
  *,
  workers: int = 0,
  beam: Sequence[str] | None = None,
  progress: Progress = lambda done, total: None,
) -> None:
  """Does all parts.

  Args:
    work: function that does one part; it is sent to other processes, and may be called again for a finished part.
    workers: processes on this machine; 0: one per core.
    beam: options of an Apache Beam pipeline that does the parts instead.
    progress: called with (parts done, parts); not called with Beam, which has its own progress.

  Raises:
    UserError: `work` raised it, or a process was killed.
  """
  if beam is not None:
    _by_beam(work, parts, beam)
    return
  workers = min(workers or len(os.sched_getaffinity(0)), len(parts))
  progress(0, len(parts))
  if workers < 2:
    for done, part in enumerate(parts, 1):
      work(part)
      progress(done, len(parts))
    return
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(workers, context, _watch, (os.getpid(),)) as pool:
    with held_back():
      waiting = [pool.submit(work, part) for part in parts]
    try:
      for done, future in enumerate(concurrent.futures.as_completed(waiting), 1):
        future.result()
        progress(done, len(parts))
    except concurrent.futures.process.BrokenProcessPool:
      raise UserError("one of the processes was killed: is the memory enough for so many --workers? The same command goes on") from None
    finally:
      pool.shutdown(cancel_futures=True)


def _watch(parent: int) -> None:
  """Ends this process when the process that started it has ended in any way."""

  def look() -> None:
    while os.getppid() == parent:
      time.sleep(WATCH_SECONDS)
    os._exit(1)

  threading.Thread(target=look, daemon=True).start()


def _by_beam(work: Callable[[int], None], parts: Sequence[int], options: Sequence[str]) -> None:
  try:
    import apache_beam  # pyright: ignore[reportMissingImports]  an extra that need not be installed
    from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]  an extra that need not be installed
  except ImportError:
    raise UserError("--beam needs Apache Beam: pip install 'ivid[beam]'") from None
  logging.getLogger("apache_beam").setLevel(logging.WARNING)
  with apache_beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
    # Only numbers pass through the engine. What it loses is done by the next run of the command; what it repeats already exists.
    _ = pipeline | apache_beam.Create(list(parts)) | apache_beam.Reshuffle() | apache_beam.Map(work)
