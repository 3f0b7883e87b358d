"""Turns a folder or list into a data set, with shards prepared by processes on this machine, on several hosts, or by Apache Beam."""

from __future__ import annotations

import functools

from ivid.data import engines
from ivid.data.finish import Summary, finish, missing_shards
from ivid.data.plan import make_plan
from ivid.data.shards import prepare_shard
from ivid.spec.prepare import PrepareSpec


def prepare(
  spec: PrepareSpec,
  out: str,
  *,
  workers: int = 0,
  process: tuple[int, int] | None = None,
  beam: tuple[str, ...] | None = None,
  strict: bool = False,
  overwrite: bool = False,
  progress: engines.Progress = lambda done, total: None,
) -> tuple[str, Summary | None]:
  """Prepares what is missing of the data set in `out`; returns its folder and its summary.

  The summary is None as long as shards of other processes are missing.

  Args:
    workers: processes on this machine; 0: one per core.
    process: index and number of the hosts that share the shards; the last to finish assembles the data set.
    beam: options of an Apache Beam pipeline, which prepares the shards instead.
    strict: whether an unusable item is an error; the usable items are then prepared but not assembled.
    overwrite: whether a data set that was prepared there from something else is replaced.
    progress: called with (shards done, shards) of this process.

  Raises:
    UserError: there is nothing to prepare, or something fails that is not the fault of one item, such as a full disk.
  """
  plan = make_plan(spec, out, overwrite=overwrite)
  index, count = process or (0, 1)
  mine = [shard for shard in missing_shards(plan) if shard % count == index]
  engines.run(functools.partial(prepare_shard, plan), mine, workers=workers, beam=beam, progress=progress)
  return plan.folder, None if missing_shards(plan) else finish(plan, strict=strict)
