"""Finds this process's share of the work, for commands whose processes do not need each other.

Unlike the processes of ivid.parallel.distributed, these never meet: if one dies, the others continue, and it is restarted alone. They only
know about each other what the environment says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ivid.spec.errors import UsageError, UserError
from ivid.spec.hosts import Shares, check_count
from ivid.spec.prepare import process_of

# Variables that say which of how many processes this is; launch/local.py and launch/host.sh set the first two.
COUNTED = (
  ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
  ("SLURM_PROCID", "SLURM_NTASKS"),
  ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
  ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"),  # of hosts: their names
)


def find_share(shares: Shares, environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
  """Index and number of the processes; None if this process does all of the work.

  Raises:
    UserError: flags contradict each other, there are more or fewer processes or devices than expected, or nothing tells the index.
  """
  if shares.process and shares.multihost == "on":
    raise UsageError(f"--multihost=on beside --process={shares.process}: expected one of them")
  found = process_of(shares.process)
  if found is None and shares.multihost != "off":
    found = announced(environment)
    if shares.multihost == "on" and found is None:
      names = " or ".join(index for index, _ in COUNTED)
      raise UserError(f"--multihost=on: no {names} says which process this is: expected launch/ to start it, or --process=INDEX/COUNT")
    if shares.multihost == "auto" and found == (0, 1):
      found = None
  count = 1 if found is None else found[1]
  check_count("process", count, shares.expected_processes)
  if shares.expected_devices:
    import jax

    check_count("device", count * jax.local_device_count(), shares.expected_devices)
  return found


def announced(environment: Mapping[str, str]) -> tuple[int, int] | None:
  """Index and number from the first pair in COUNTED that is completely set. Raises UserError if they make no sense."""
  for index_name, count_name in COUNTED:
    index, count = environment.get(index_name, ""), environment.get(count_name, "")
    if count_name == "TPU_WORKER_HOSTNAMES" and count:
      count = str(len(count.split(",")))
    if count_name == "SLURM_NTASKS" and not environment.get("SLURM_STEP_NODELIST"):
      continue  # the batch script itself, which is one process; only srun sets it
    if index and count:
      if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"{index_name}={index}, {count_name}={count}: expected a number from 0 to one below the count")
      return int(index), int(count)
  return None
