#!/usr/bin/env python3
"""Runs one ivid command in several processes of this machine, as a pod's hosts would, and says in plain words when one of them dies.

  python launch/local.py --processes=2 --devices=4 -- train --config=nano:base --workdir=runs/base

Each process has the environment of launch/env.sh, and is told where the first one listens (JAX_COORDINATOR_ADDRESS), how many there are and
which it is. --devices gives each so many virtual CPU devices; without it each has a GPU. SIGTERM and Ctrl-C go to all: they save and end.

  python launch/local.py --processes=2 --devices=1 -- sample --prompts_file=prompts.txt --out=clips

Processes of commands that make shares do not meet, and the others go on when one dies.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Sources env.sh for the platform named first, then replaces itself with the command that follows.
IN_ENVIRONMENT = ["bash", "-c", 'source "$0" "$1" && shift && exec "$@"', str(ROOT / "launch" / "env.sh")]
JOINING = ("train", "distill")  # the commands whose processes work together
SHARING = ("sample", "evaluate", "data prepare", "data embed")  # the commands whose processes work on a share each
POLL_SECONDS = 0.05
TOGETHER_SECONDS = 0.5  # deaths within this time are one event, and the cause is sought among them
PLAIN_SIGNALS = {signal.SIGKILL: "killed by SIGKILL (kill -9, or out of memory: see dmesg)", signal.SIGSEGV: "crashed (SIGSEGV)"}


def main(argv: Sequence[str] | None = None) -> int:
  """Starts the processes, waits for them, and returns 0 if all of them ended well."""
  options, command = parse(sys.argv[1:] if argv is None else argv)
  address = options.coordinator or f"127.0.0.1:{free_port()}"
  shares, started = is_shared(command), []
  for index in range(options.processes):
    line = [sys.executable, "-m", options.module, *command, *expected(options)]
    line += [] if shares else [f"--heartbeat_seconds={options.heartbeat_seconds}"]
    variables = environment(options, "" if shares else address, index)
    if options.dry_run:
      print(shlex.join([*(f"{name}={value}" for name, value in variables.items()), *line]))
    else:
      started.append(start([*IN_ENVIRONMENT, "cpu" if options.devices else "gpu", *line], variables))
  if options.dry_run:
    return 0
  group = Group(started)
  return group.wait_for_each() if shares else group.wait(options.grace)


def is_shared(command: Sequence[str]) -> bool:
  """Whether the command is one of SHARING."""
  return " ".join(command[:1]) in SHARING or " ".join(command[:2]) in SHARING


def expected(options: argparse.Namespace) -> list[str]:
  """Flags that make any other number of processes or devices an error."""
  flags = ["--multihost=on", f"--expected_processes={options.processes}"]
  return flags + ([f"--expected_devices={options.processes * options.devices}"] if options.devices else [])


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """The launcher's options, and the ivid command after `--`."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], usage="local.py [options] -- COMMAND FLAGS")
  parser.add_argument("--processes", type=int, default=2, help="how many (2)")
  parser.add_argument("--devices", type=int, default=0, help="virtual CPU devices of each process; 0: one GPU each")
  parser.add_argument("--coordinator", default="", help="HOST:PORT of the first process (a free port of this machine)")
  parser.add_argument("--heartbeat_seconds", type=int, default=10, help="a process that is silent for so long is lost (10)")
  parser.add_argument("--grace", type=float, default=15.0, help="seconds that the others have to end by themselves when one died (15)")
  parser.add_argument("--module", default="ivid", help="what `python -m` runs (ivid); another one takes the same flags")
  parser.add_argument("--dry_run", action="store_true", help="print what would be started")
  split = list(argv).index("--") if "--" in argv else len(argv)
  options, command = parser.parse_args(argv[:split]), list(argv[split + 1 :])
  if options.processes < 1 or options.devices < 0:
    parser.error(f"--processes={options.processes} --devices={options.devices}: expected 1 or more processes, 0 or more devices")
  if options.module == "ivid" and not is_shared(command) and " ".join(command[:1]) not in JOINING:
    known = ", ".join((*JOINING, *SHARING))
    parser.error(f"the command after -- is {' '.join(command[:2]) or 'missing'!r}: expected an ivid command of {known} and its flags")
  return options, command


def environment(options: argparse.Namespace, address: str, index: int) -> dict[str, str]:
  """Variables that process `index` gets in addition to this process's environment; without an address it joins no other process."""
  variables = {"JAX_COORDINATOR_ADDRESS": address} if address else {}
  variables |= {"JAX_NUM_PROCESSES": str(options.processes), "JAX_PROCESS_ID": str(index)}
  if options.devices:
    kept = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
    variables["JAX_PLATFORMS"] = "cpu"
    variables["XLA_FLAGS"] = " ".join([*kept, f"--xla_force_host_platform_device_count={options.devices}"])
  elif address:
    variables["JAX_LOCAL_DEVICE_IDS"] = str(index)
  else:
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    variables["CUDA_VISIBLE_DEVICES"] = gpus[index] if index < len(gpus) else str(index)
  return variables


def free_port() -> int:
  """A port on which nothing listens at the moment."""
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    return listener.getsockname()[1]


def start(line: Sequence[str], variables: dict[str, str]) -> subprocess.Popen:
  """One process, found with this checkout's ivid from any folder, in a group of its own so that Ctrl-C reaches it through us alone."""
  path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
  # Safe path: started in this folder, `python -m` would take queue.py for the standard library's.
  added = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", **variables}
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
  return subprocess.Popen(line, env={**os.environ, **added}, start_new_session=True, **pipes)


class Group:
  """The processes of one run."""

  def __init__(self, processes: Sequence[subprocess.Popen]):
    self._processes = processes
    self._readers = [threading.Thread(target=self._copy, args=(i,), daemon=True) for i in range(len(processes))]
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._forward)
    for reader in self._readers:
      reader.start()
    say(f"{len(processes)} processes: {', '.join(f'{i} is pid {p.pid}' for i, p in enumerate(processes))}")

  def wait(self, grace: float) -> int:
    """0 when all ended well; 1 when one did not: then the others have `grace` seconds before they are killed."""
    started = time.monotonic()
    while not self._dead() and self._running():
      time.sleep(POLL_SECONDS)
    if not self._dead():
      self._finish()
      say("all processes ended well")
      return 0
    after = time.monotonic() - started
    time.sleep(TOGETHER_SECONDS)
    # A process that ends because another is gone aborts or says so. The cause is therefore the one that was killed from outside.
    cause = min(self._dead(), key=lambda i: (self._processes[i].returncode != -signal.SIGKILL, i))
    say(f"process {cause} {how(self._processes[cause].returncode)} after {after:.0f} s; the run cannot go on without it")
    deadline = time.monotonic() + grace
    while self._running() and time.monotonic() < deadline:
      time.sleep(POLL_SECONDS)
    for i in self._running():
      say(f"process {i} still waits for it after {grace:.0f} s: killed")
      self._processes[i].kill()
    for i, process in enumerate(self._processes):
      process.wait()
      if i != cause:
        say(f"process {i} {how(process.returncode)}")
    self._finish()
    if self._processes[cause].returncode > 0:
      say(f"lines marked [{cause}] say why")
    else:
      say("start the same command again: it goes on from the last checkpoint")
    return 1

  def wait_for_each(self) -> int:
    """Like `wait`, but for processes with shares: none needs the others, so all of them run to their end."""
    said: set[int] = set()
    while self._running() or set(self._dead()) - said:
      for i in sorted(set(self._dead()) - said):
        say(f"process {i} {how(self._processes[i].returncode)}; the others go on")
        said.add(i)
      time.sleep(POLL_SECONDS)
    self._finish()
    if not said:
      say("all processes ended well")
      return 0
    if any(self._processes[i].returncode > 0 for i in said):
      say(f"lines marked {', '.join(f'[{i}]' for i in sorted(said))} say why")
    else:
      say("start the same command again: it makes what is missing")
    return 1

  def _running(self) -> list[int]:
    return [i for i, process in enumerate(self._processes) if process.poll() is None]

  def _dead(self) -> list[int]:
    return [i for i, process in enumerate(self._processes) if process.poll()]

  def _forward(self, number: int, frame: object) -> None:
    del frame
    say(f"{signal.Signals(number).name}: passed on; the processes save and end")
    for i in self._running():
      self._processes[i].send_signal(signal.SIGTERM)

  def _copy(self, index: int) -> None:
    for text in self._processes[index].stdout:
      print(f"[{index}] {text}", end="", flush=True)

  def _finish(self) -> None:
    for reader in self._readers:
      reader.join(timeout=5)


def how(status: int) -> str:
  """A return code in words."""
  if status >= 0:
    return f"ended with status {status}"
  return "was " + PLAIN_SIGNALS.get(status * -1, f"ended by {signal.Signals(-status).name}")


def say(text: str) -> None:
  print(f"launch: {text}", flush=True)


if __name__ == "__main__":
  sys.exit(main())
