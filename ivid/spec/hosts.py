"""How the processes of a run find each other, or find their shares of the work."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ivid.spec.errors import UserError, nearest
from ivid.spec.limits import MOST_PROCESSES
from ivid.spec.options import option
from ivid.spec.ranges import Range, check_ranges

MODES = ("auto", "on", "off")
MOST_SECONDS = 1_000_000  # JAX counts milliseconds in int32


def _expected(things: str) -> int:
  return option(0, f"Stop unless there are exactly so many {things} in total; 0: any number")


@dataclasses.dataclass(frozen=True)
class Hosts:
  """Processes that work together; every field is a flag of that name."""

  multihost: str = option("auto", "Join other processes: auto (if SLURM, Open MPI, a TPU slice or JAX_NUM_PROCESSES shows any), on or off")
  expected_processes: Annotated[int, Range(0, MOST_PROCESSES)] = _expected("processes")
  expected_devices: Annotated[int, Range(0, MOST_PROCESSES)] = _expected("devices")
  heartbeat_seconds: Annotated[int, Range(2, MOST_SECONDS)] = option(20, "A peer that is silent for so long is lost, and the run ends")

  def __post_init__(self):
    check_mode(self.multihost)
    check_ranges(self, "--")


@dataclasses.dataclass(frozen=True)
class Shares:
  """Processes that make one share each and do not know of each other; every field is a flag of that name."""

  multihost: str = option("auto", "Make one share: auto (if SLURM, Open MPI, TPU_WORKER_ID or JAX_NUM_PROCESSES shows others), on or off")
  expected_processes: Annotated[int, Range(0, MOST_PROCESSES)] = _expected("processes")
  expected_devices: Annotated[int, Range(0, MOST_PROCESSES)] = _expected("devices, as many in each process,")
  process: str = option("", "Instead: the index and number of processes, such as 0/4. This one makes what is missing of its share")

  def __post_init__(self):
    check_mode(self.multihost)
    check_ranges(self, "--")


def check_mode(multihost: str) -> None:
  """UserError unless it is one of MODES."""
  if multihost not in MODES:
    raise UserError(f"--multihost={multihost}: {nearest(multihost, MODES)}")


def check_count(kind: str, have: int, want: int) -> None:
  """UserError if there are not `want` (0: any number) processes or devices."""
  plural = {"process": "processes", "device": "devices"}[kind]
  if want and have != want:
    raise UserError(f"found {have} {kind if have == 1 else plural}, expected {want} (--expected_{plural}={want})")
