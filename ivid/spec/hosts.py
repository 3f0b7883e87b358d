"""How the processes of a run find each other."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ivid.spec.errors import UserError, nearest
from ivid.spec.limits import MOST_PROCESSES
from ivid.spec.options import option
from ivid.spec.ranges import Range, check_ranges

MODES = ("auto", "on", "off")
MOST_SECONDS = 1_000_000  # JAX counts milliseconds in int32


@dataclasses.dataclass(frozen=True)
class Hosts:
  """Every field is a flag of that name."""

  multihost: str = option("auto", "Join other processes: auto (where SLURM, Open MPI, a TPU slice or JAX_NUM_PROCESSES shows), on or off")
  expected_processes: Annotated[int, Range(0, MOST_PROCESSES)] = option(0, "Stop unless there are so many processes; 0: any number")
  expected_devices: Annotated[int, Range(0, MOST_PROCESSES)] = option(0, "Stop unless there are so many devices in all; 0: any number")
  heartbeat_seconds: Annotated[int, Range(2, MOST_SECONDS)] = option(20, "A peer that is silent for so long is lost, and the run ends")

  def __post_init__(self):
    if self.multihost not in MODES:
      raise UserError(f"--multihost={self.multihost}: {nearest(self.multihost, MODES)}")
    check_ranges(self, "--")
