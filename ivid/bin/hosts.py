"""The flags that join many hosts to one run."""

from __future__ import annotations

from absl import flags


def define_hosts(values: flags.FlagValues) -> None:
  """Adds --multihost and what is expected of it."""
  flags.DEFINE_string(
    "multihost",
    "auto",
    "Join other processes: auto (where SLURM, Open MPI, a TPU slice or JAX_NUM_PROCESSES shows), on or off.",
    flag_values=values,
  )
  flags.DEFINE_integer("expected_processes", 0, "Stop unless there are so many processes; 0: any number.", flag_values=values)
  flags.DEFINE_integer("expected_devices", 0, "Stop unless there are so many devices in all; 0: any number.", flag_values=values)
  flags.DEFINE_integer("heartbeat_seconds", 20, "A peer that is silent for so long is lost, and the run ends.", flag_values=values)


def join_hosts(values: flags.FlagValues) -> None:
  """Joins the processes of the run as the flags say; before anything that touches a device.

  Raises:
    ValueError: flags that make no sense, or processes or devices other than expected.
  """
  from ivid.parallel.distributed import Hosts, join

  join(
    Hosts(
      mode=values.multihost,
      processes=values.expected_processes,
      devices=values.expected_devices,
      heartbeat_seconds=values.heartbeat_seconds,
    )
  )
