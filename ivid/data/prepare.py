"""A folder or list as a data set, its shards prepared by processes of this machine, by those of several hosts, or by Apache Beam."""

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
  engines.run(functools.partial(prepare_shard, plan), mine, workers=workers, beam=beam, progress=progress)
  return plan.folder, None if missing_shards(plan) else finish(plan, strict=strict)
