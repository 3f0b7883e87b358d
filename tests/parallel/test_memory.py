"""Memory of devices and of this process."""

import types

import numpy as np

from ivid.parallel.memory import memory_metrics, peak_bytes


def device(**stats):
  return types.SimpleNamespace(memory_stats=lambda: stats or None)


def test_the_fullest_device_counts():
  one = device(bytes_in_use=2_000_000_000, peak_bytes_in_use=5_000_000_000, bytes_limit=16_000_000_000, num_allocs=3)
  other = device(bytes_in_use=3_000_000_000, peak_bytes_in_use=4_000_000_000, bytes_limit=16_000_000_000, num_allocs=9)
  assert memory_metrics([one, other]) == {"memory/device_gb": 3.0, "memory/device_peak_gb": 5.0, "memory/device_limit_gb": 16.0}
  assert memory_metrics([device(bytes_in_use=1_000_000_000)]) == {"memory/device_gb": 1.0}


def test_devices_that_do_not_count_give_the_hosts_peak_by_its_name():
  held = np.ones(50_000_000, np.uint8)
  assert memory_metrics([device()]) == {"memory/host_peak_rss_gb": peak_bytes() / 1e9}
  assert memory_metrics()["memory/host_peak_rss_gb"] * 1e9 > held.nbytes  # CPUs have no memory_stats
