"""Commands of `ivid` in processes of their own, killed at random moments and started again, and what their work folders then hold."""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import tensorstore  # noqa: F401  Orbax's array reader, named here because a missing one shows as a hang

from tests.compiling import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'tests' / 'fixtures' / 'one_level.py'}:base"
IMPORTS = 2.0  # seconds within which no command has begun to write
SECONDS = 900  # after which a process is taken to hang


def start(args, cache, *, through=(), module="ivid", devices=1, **options):
  """`ivid ARGS` on virtual devices, with the folder of compiled programs, by the command `through` if one is given."""
  environment = dict(os.environ, PYTHONWARNINGS="ignore", XLA_FLAGS=xla_flags(devices), JAX_COMPILATION_CACHE_DIR=str(cache))
  quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) | options
  return subprocess.Popen([*through, sys.executable, "-m", module, *args], cwd=ROOT, env=environment, **quiet)


def finish(args, cache, **options):
  """Runs it to its end; its standard error and the seconds it took."""
  started = time.monotonic()
  process = start(args, cache, **options)
  printed = process.communicate(timeout=SECONDS)[1]
  assert process.returncode == 0 and "Traceback" not in printed, printed
  return printed, time.monotonic() - started


def changes(folder):
  """What differs as soon as anything is made, renamed or removed in a folder or in those in it."""
  found = {}
  for path in (folder, *folder.glob("*/"), *folder.glob("*/*/")):
    with contextlib.suppress(FileNotFoundError):
      found[path] = path.stat().st_mtime_ns
  return found


def within(seconds):
  """Ends a wait for a process at a random moment of its first `seconds`; all such functions raise TimeoutExpired then."""
  return lambda process, rng, workdir, before: process.wait(timeout=rng.uniform(0.0, seconds))


def while_it_works(seconds):
  """At a random moment of the `seconds` after the first change in the work folder; once in five within the imports before it."""

  def wait(process, rng, workdir, before):
    if rng.random() < 0.2:
      process.wait(timeout=rng.uniform(0.0, IMPORTS))
    while changes(workdir) == before and process.poll() is None:
      time.sleep(0.002)
    process.wait(timeout=rng.uniform(0.0, seconds))

  return wait


def killed(command, folders, *, kills, moment, seed, cache, check, left=lambda workdir: None):
  """Kills the command `kills` times, each time from where it was left; whatever has ended is checked. Prints the starts it took.

  Args:
    command: work folder -> arguments.
    folders: iterator of new work folders, whose parents are there.
    moment: of `within` or `while_it_works`.
    cache: number of the start -> folder of compiled programs.
    check: called with each work folder that the command has come to the end of.
    left: called with the work folder after each kill.
  """
  rng, workdir, done = random.Random(seed), next(folders), 0
  for number in range(100 * kills):
    if done == kills:
      break
    before = changes(workdir)
    process = start(command(workdir), cache(number), stderr=subprocess.DEVNULL)
    try:
      moment(process, rng, workdir, before)
    except subprocess.TimeoutExpired:
      process.send_signal(signal.SIGKILL)
      process.wait()
      done += 1
      left(workdir)
      continue
    assert process.returncode == 0, f"start {number} ended with {process.returncode}"
    check(workdir)
    workdir = next(folders)
  assert done == kills
  finish(command(workdir), cache(number + 1))
  check(workdir)
  print(f"{done} kills, {number + 1} starts")


def arrays(folder):
  """Every array of a run's last checkpoint, and what it has seen."""
  import orbax.checkpoint as ocp

  path = max((folder / "checkpoints").iterdir(), key=lambda step: int(step.name))  # and nothing unfinished beside it
  found = {"seen": np.asarray(json.loads((path / "data" / "metadata").read_text())["next_index"])}
  for item in ("params", "ema", "optimizer"):
    with ocp.PyTreeCheckpointer() as checkpointer:
      for name, leaf in jax.tree_util.tree_leaves_with_path(checkpointer.restore(path / item)):
        found[item + jax.tree_util.keystr(name)] = np.asarray(leaf)
  return found


def logged(folder):
  """Metrics of every step but speeds; one that was written twice is an error."""
  rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  found = [((row["step"], name), value) for row in rows for name, value in row.items() if not name.startswith(("perf/", "step"))]
  assert len(found) == len(dict(found))
  return dict(found)


def assert_same_run(have, want):
  """Two work folders of a run end with the same arrays, metrics and samples, bit for bit."""
  want_arrays, have_arrays = arrays(want), arrays(have)
  assert want_arrays.keys() == have_arrays.keys() and len(want_arrays) > 100
  for name, value in want_arrays.items():
    np.testing.assert_array_equal(have_arrays[name], value, err_msg=name)
  assert logged(have) == logged(want)
  files = [{path.name: path.read_bytes() for path in sorted((folder / "samples").glob("*.png"))} for folder in (have, want)]
  assert files[0] == files[1]
