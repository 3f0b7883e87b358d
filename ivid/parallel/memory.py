"""How much memory the devices and this process hold now and have held at most."""

from __future__ import annotations

import pathlib
import resource
import sys
from collections.abc import Sequence

import jax

STATUS, RESET = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def reset_peak() -> None:
  """Restarts the count of the process's peak memory if the system can (Linux); elsewhere the count continues."""
  try:
    RESET.write_text("5")
  except OSError:
    return


def peak_bytes() -> int:
  """The most memory (resident set) that the process has held since `reset_peak`."""
  if STATUS.exists():
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) * 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_metrics(devices: Sequence[jax.Device] | None = None) -> dict[str, float]:  # pyright: ignore[reportInvalidTypeForm]  jax assigns the class to the name
  """GB (1e9 bytes) of the fullest of `devices` (default: those of this process): used now, used at most so far, and available.

  If devices do not count their memory, as CPUs do not, the result is `memory/host_peak_rss_gb` of this process instead.
  """
  names = {"bytes_in_use": "device_gb", "peak_bytes_in_use": "device_peak_gb", "bytes_limit": "device_limit_gb"}
  stats = [found for device in devices or jax.local_devices() if (found := device.memory_stats())]
  if not stats:
    return {"memory/host_peak_rss_gb": peak_bytes() / 1e9}
  return {f"memory/{name}": max(found[key] for found in stats if key in found) / 1e9 for key, name in names.items() if key in stats[0]}
