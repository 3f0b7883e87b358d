"""One run that goes from one device to two, to eight, to two processes of two and back, next to one that stays on one device."""

import time

import numpy as np
import pytest

from tests.compiling import QUICK
from tests.faults.trials import CONFIG, finish, logged
from tests.launch.runs import Launch, arrays

LEGS = ((1, 1), (1, 2), (1, 8), (2, 2), (1, 1))  # processes, and devices of each
STEPS = 2  # of a leg
# A rate that does not depend on where the run ends.
TRAIN = ("image_fraction=0.0", "optimizer.decay=constant", "optimizer.warmup_steps=1", "checkpoint.every=100", "log_every=1")
TRAIN += (f"eval_every={STEPS}", "sample_every=0")
# Sums over the batch go in another order on other devices: 1e-7 of a metric in each step. Adam divides by the gradient's size, so that
# where a gradient is next to nothing its rounding becomes a part of the update: 1e-5 of an array was found.
SPREAD = {"metrics": 1e-5, "arrays": 1e-4}


def train(workdir, steps, devices):
  options = [f"--config.train.{option}" for option in (*TRAIN, f"steps={steps}")]
  return ["train", CONFIG, f"--workdir={workdir}", f"--config.mesh.fsdp={min(devices, 2)}", *options]


def differences(have, want):
  """By name: the largest difference of two arrays or numbers, over the largest value."""
  assert have.keys() == want.keys()
  return {name: float(np.max(np.abs(have[name] - value)) / max(np.max(np.abs(value)), 1e-12)) for name, value in want.items()}


@pytest.mark.slow
def test_on_other_devices_in_each_leg(tmp_path):
  began, cache = time.monotonic(), tmp_path / "cache"
  one, moved = tmp_path / "one", tmp_path / "moved"
  steps = STEPS * len(LEGS)
  finish(train(one, steps, 1), cache)
  for number, (processes, devices) in enumerate(LEGS, start=1):
    args = train(moved, STEPS * number, processes * devices)
    if processes == 1:
      printed, _ = finish([*args, f"--expected_devices={devices}"], cache, devices=devices)
    else:
      launch = Launch(moved, *args, devices=devices, XLA_FLAGS=" ".join(QUICK), JAX_COMPILATION_CACHE_DIR=str(cache))
      assert launch.process.wait(timeout=600) == 0, launch.printed
      printed = launch.printed
    assert number == 1 or f"resuming {moved} at step {STEPS * (number - 1)}" in printed
  want, have = arrays(one, steps), arrays(moved, steps)
  assert have["next_index"] == want["next_index"] > 0
  found = {name: differences(*pair) for name, pair in {"arrays": (have, want), "metrics": (logged(moved), logged(one))}.items()}
  print()
  for kind, spread in found.items():
    worst = sorted(spread, key=spread.get, reverse=True)[:3]
    print(f"{len(spread)} {kind}, largest differences: {', '.join(f'{spread[name]:.1e} of {name}' for name in worst)}")
  print(f"{time.monotonic() - began:.0f} s in all")
  assert all(max(spread.values()) < SPREAD[kind] for kind, spread in found.items())
