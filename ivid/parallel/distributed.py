"""Runs on many hosts: joining one process per host, agreeing on when to stop, and noticing a lost peer."""

from __future__ import annotations

import collections
import contextlib
import glob
import importlib.util
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ivid.parallel import signals
from ivid.parallel.mesh import make_mesh
from ivid.programs import Program
from ivid.spec.errors import UserError
from ivid.spec.hosts import Hosts, check_count
from ivid.spec.run import MeshSpec

# For processes that no cluster manager announces; launch/local.py sets these variables.
COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
JOIN_SECONDS = 300  # the hosts of a slice do not all start at the same moment
LEAVE_SECONDS = 30  # how long to wait for the others at the end; those that are missing by then are gone
NOTICE_SECONDS = 20  # a process that waits so long for others reports it
STOP_LAG = 2  # steps between a signal and the last step, so that asking does not have to wait for the devices


def join(hosts: Hosts) -> None:
  """Joins the other processes, and checks how many there are. Call this before anything touches a device.

  Raises:
    UserError: there are more or fewer processes or devices than expected, there is only one process although others should join, or the
      cluster is impossible.
  """
  joins = hosts.multihost == "on" or (hosts.multihost == "auto" and cluster_sign(os.environ) is not None)
  if joins:
    _initialize(hosts)
  elif hosts.expected_processes > 1:
    raise UserError(
      f"this process runs alone, --expected_processes={hosts.expected_processes}: expected --multihost=on, and that many started"
    )
  check_count("process", jax.process_count(), hosts.expected_processes)
  if hosts.multihost == "on" and jax.process_count() == 1 and hosts.expected_processes != 1:
    raise UserError("--multihost=on found one process alone: expected several, or --expected_processes=1 to say that it is meant")
  if hosts.expected_devices:
    check_count("device", jax.device_count(), hosts.expected_devices)


def cluster_sign(environment: Mapping[str, str]) -> str | None:
  """The sign in the environment or the device files that this is one of several processes; None if there is no such sign."""
  for name in (COORDINATOR, COUNT, INDEX):
    if environment.get(name):
      return name
  # Only srun sets SLURM_STEP_NODELIST; the batch script itself is a single process.
  if int(environment.get("SLURM_NTASKS") or 1) > 1 and environment.get("SLURM_STEP_NODELIST"):
    return "SLURM_NTASKS"
  if int(environment.get("OMPI_COMM_WORLD_SIZE") or 1) > 1:
    return "OMPI_COMM_WORLD_SIZE"
  if environment.get("JAX_PLATFORMS", "").startswith("cpu"):
    return None
  for name in ("MEGASCALE_COORDINATOR_ADDRESS", "TPU_WORKER_HOSTNAMES"):
    if environment.get(name):
      return name
  chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
  return chips[0] if chips and importlib.util.find_spec("libtpu") else None


def _initialize(hosts: Hosts) -> None:
  given = {name: os.environ.get(name) for name in (COORDINATOR, COUNT, INDEX)}
  arguments: dict[str, Any] = {}
  if given[COUNT] or given[INDEX]:
    missing = [name for name, value in given.items() if not value]
    if missing:
      raise UserError(f"{', '.join(missing)} not set: expected all of {', '.join(given)}, or none where SLURM or a TPU says it")
    count, index = (_integer(name, given[name] or "") for name in (COUNT, INDEX))
    if not 0 <= index < count:
      raise UserError(f"{INDEX}={index}: expected 0 to {count - 1} ({COUNT}={count})")
    check_count("process", count, hosts.expected_processes)
    arguments: dict[str, Any] = dict(coordinator_address=given[COORDINATOR], num_processes=count, process_id=index)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  waiting = threading.Timer(NOTICE_SECONDS, _say_waiting, [given[COORDINATOR]])
  waiting.daemon = True
  waiting.start()
  try:
    jax.distributed.initialize(
      **arguments,
      initialization_timeout=JOIN_SECONDS,
      heartbeat_timeout_seconds=hosts.heartbeat_seconds,
      shutdown_timeout_seconds=LEAVE_SECONDS,
    )
  except (ValueError, RuntimeError) as error:
    reason = " ".join(str(error).split())[:200]
    raise UserError(
      f"cannot join the other processes ({reason}): expected a TPU slice, SLURM or {COORDINATOR}; --multihost=off runs alone"
    ) from None
  finally:
    waiting.cancel()
  signals.listen()  # from here on, because JAX's own handler swallows a signal that arrives during compilation


def _say_waiting(address: str | None) -> None:
  where = f" at {address}" if address else ""
  print(f"waiting for the other processes{where}: start them all; this one gives up after {JOIN_SECONDS} s", file=sys.stderr, flush=True)


def _integer(name: str, value: str) -> int:
  try:
    return int(value)
  except ValueError:
    raise UserError(f"{name}={value}: expected a whole number") from None


def is_first() -> bool:
  """Whether this is process 0, the only one that writes metrics, pictures and the notes of a run."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Returns when every process has reached the place of this name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def all_agree(holds: bool) -> bool:
  """Whether the condition holds in every process. All processes call this."""
  return holds if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.asarray(holds))))


def connect(mesh: Mesh) -> None:
  """Runs one collective over each set of the mesh's axes. All processes call this before they compile.

  On CPUs, a group of devices connects at its first collective and gives up after 30 s; two processes may differ more in compile time.
  """
  if jax.process_count() == 1 or jax.default_backend() != "cpu":
    return
  wait_for_all("connect")
  axes = [axis for axis in mesh.axis_names if mesh.shape[axis] > 1]
  for count in range(1, len(axes) + 1):
    for group in itertools.combinations(axes, count):
      total = jax.shard_map(lambda x, group=group: jax.lax.psum(x, group), mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec())
      jax.block_until_ready(Program("connect", total).jit()(np.ones(1, np.float32)))


def alone() -> contextlib.AbstractContextManager:
  """A context in which arrays and programs belong to this process, on its first device, whatever mesh is set around it.

  What one process does for itself, such as embedding its captions, must not become a program of all processes, which would all have to
  run it equally often.
  """
  return jax.set_mesh(make_mesh(MeshSpec(), jax.local_devices()[:1]))


def on_host(tree):
  """The arrays of a tree as whole NumPy arrays in every process. All processes call this."""
  return jax.tree.map(lambda array: np.asarray(whole(array)), tree)


def whole(array: jax.Array) -> jax.Array:
  """The array with all its parts in this process."""
  if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
    return array
  return multihost_utils.process_allgather(array, tiled=True)


class StopSignal:
  """Turns SIGTERM, SIGINT or the end of the time, in any process, into a stop at a step on which all processes agree.

  Every call is one step: each process reports whether it was asked to stop, and learns what all reported STOP_LAG calls earlier. JAX has a
  service of its own for this (multihost_utils.reached_preemption_sync_point), which counts steps upwards for ever: a distillation
  begins anew with every student, and Orbax asks with the steps of checkpoints.
  """

  def __init__(self, mesh: Mesh, *, seconds: float = math.inf):
    """`seconds`: time from now after which it stops."""
    self._end = time.monotonic() + seconds
    self._heard: collections.deque[jax.Array] = collections.deque()
    self._alone = jax.process_count() == 1
    signals.listen()
    if not self._alone:
      flags = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
      self._flags = lambda: jax.make_array_from_process_local_data(flags, np.full(jax.local_device_count(), self._due()))
      self._any = Program("stop", lambda flags: flags.any(), out_shardings=NamedSharding(mesh, PartitionSpec())).jit()

  def _due(self) -> bool:
    """Whether this process wants to stop."""
    return signals.asked() or time.monotonic() > self._end

  def __call__(self) -> bool:
    """Whether to stop before the next step. All processes call this equally often."""
    if self._alone:
      return self._due()
    self._heard.append(self._any(self._flags()))
    return len(self._heard) > STOP_LAG and bool(self._heard.popleft())

  def agreed(self) -> bool:
    """Whether by now any process has been asked to stop or has run out of time; waits for all processes."""
    if self._alone:
      return self._due()
    self._heard.clear()
    return bool(self._any(self._flags()))
