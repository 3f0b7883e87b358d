"""How the processes of a run find each other."""

from __future__ import annotations

import dataclasses

from ivid.spec.errors import UserError, nearest
from ivid.spec.options import option

MODES = ("auto", "on", "off")


@dataclasses.dataclass(frozen=True)
class Hosts:
  """Every field is a flag of that name."""

  multihost: str = option("auto", "Join other processes: auto (where SLURM, Open MPI, a TPU slice or JAX_NUM_PROCESSES shows), on or off")
  expected_processes: int = option(0, "Stop unless there are so many processes; 0: any number")
  expected_devices: int = option(0, "Stop unless there are so many devices in all; 0: any number")
  heartbeat_seconds: int = option(20, "A peer that is silent for so long is lost, and the run ends")

  def __post_init__(self):
    if self.multihost not in MODES:
      raise UserError(f"--multihost={self.multihost}: {nearest(self.multihost, MODES)}")
    for name, low in (("expected_processes", 0), ("expected_devices", 0), ("heartbeat_seconds", 2)):
      if getattr(self, name) < low:
        raise UserError(f"--{name}={getattr(self, name)}: expected {low} or more")
