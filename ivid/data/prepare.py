"""A folder or list as a data set, its shards prepared by processes of this machine, by those of several hosts, or by Apache Beam."""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable

from ivid.data.finish import Summary, finish, missing_shards
from ivid.data.plan import Plan, make_plan
from ivid.data.shards import prepare_shard
from ivid.spec.errors import UserError
from ivid.spec.prepare import PrepareSpec

WATCH_SECONDS = 2.0

Progress = Callable[[int, int], None]


def prepare(
  spec: PrepareSpec,
  out: str,
  *,
  workers: int = 0,
  process: tuple[int, int] | None = None,
  beam: tuple[str, ...] | None = None,
  strict: bool = False,
  overwrite: bool = False,
  progress: Progress = lambda done, total: None,
) -> tuple[str, Summary | None]:
  """Prepares what is missing of the data set in `out`; returns its folder and what it came to.

  That is None while shards of other processes are missing.

  Args:
    workers: processes of this machine; 0: one for each of its cores.
    process: index and count of the hosts that share the shards out; whichever is last puts the data set together.
    beam: options of an Apache Beam pipeline, which prepares the shards instead.
    strict: whether an item that cannot be used is an error; what can be used is then prepared, but not put together.
    overwrite: whether what was prepared there from something else makes way.
    progress: called with (shards done, shards) of this process.

  Raises:
    UserError: nothing to prepare, or something that is no fault of one item, such as a full disk.
  """
  plan = make_plan(spec, out, overwrite=overwrite)
  index, count = process or (0, 1)
  mine = [shard for shard in missing_shards(plan) if shard % count == index]
  if beam is not None:
    _by_beam(plan, mine, beam)
  else:
    _by_pool(plan, mine, workers or len(os.sched_getaffinity(0)), progress)
  return plan.folder, None if missing_shards(plan) else finish(plan, strict=strict)


def _by_pool(plan: Plan, mine: list[int], workers: int, progress: Progress) -> None:
  progress(0, len(mine))
  if workers == 1 or len(mine) < 2:
    for done, shard in enumerate(mine, 1):
      prepare_shard(plan, shard)
      progress(done, len(mine))
    return
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(min(workers, len(mine)), context, _watch, (os.getpid(),)) as pool:
    waiting = [pool.submit(prepare_shard, plan, shard) for shard in mine]
    try:
      for done, future in enumerate(concurrent.futures.as_completed(waiting), 1):
        future.result()
        progress(done, len(mine))
    except concurrent.futures.process.BrokenProcessPool:
      raise UserError(
        "a process that prepares shards was killed: is the memory enough for --workers of them? The same command goes on"
      ) from None
    finally:
      pool.shutdown(cancel_futures=True)


def _watch(parent: int) -> None:
  """Ends this process when the one that started it has ended, however it did."""

  def look() -> None:
    while os.getppid() == parent:
      time.sleep(WATCH_SECONDS)
    os._exit(1)

  threading.Thread(target=look, daemon=True).start()


def _by_beam(plan: Plan, mine: Iterable[int], options: tuple[str, ...]) -> None:
  try:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError:
    raise UserError("--beam needs Apache Beam: pip install 'ivid[beam]'") from None
  logging.getLogger("apache_beam").setLevel(logging.WARNING)
  with apache_beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
    # Only numbers go through the engine: what it loses or repeats is prepared again, or is there.
    _ = pipeline | apache_beam.Create(list(mine)) | apache_beam.Reshuffle() | apache_beam.Map(lambda shard: prepare_shard(plan, shard))
