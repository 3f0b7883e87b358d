"""Work in numbered parts, each of which writes what it makes unless that is there, by processes of this machine or by Apache Beam."""

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
    work: what does one; it is sent to other processes, and may be called again for a part that is done.
    workers: processes of this machine; 0: one for each of its cores.
    beam: options of an Apache Beam pipeline that does them instead.
    progress: called with (parts done, parts); never by Beam, which has its own.

  Raises:
    UserError: what `work` raises; a process that was killed.
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
  """Ends this process when the one that started it has ended, however it did."""

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
    # Only numbers go through the engine: what it loses or repeats is done by the next run of the command, or is there.
    _ = pipeline | apache_beam.Create(list(parts)) | apache_beam.Reshuffle() | apache_beam.Map(work)
