"""A run as launch/queue.py sees it, without JAX: counts steps in its work folder, saves on SIGTERM, and says how it ended."""

import argparse
import concurrent.futures
import json
import os
import pathlib
import signal
import sys
import time

from ivid.runs.workdir import begin, claim, write_status


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("command")
  parser.add_argument("--workdir", type=pathlib.Path)
  parser.add_argument("--steps", type=int, default=3)
  parser.add_argument("--seconds", type=float, default=0.0, help="of each step")
  parser.add_argument("--failures", type=int, default=0, help="so many starts end with status 3")
  parser.add_argument("--most", type=int, default=1000, help="steps of one start, as --max_minutes bounds them")
  parser.add_argument("--not_ready", action="store_true", help="SIGTERM ends it, as while `ivid train` still compiles")
  values = parser.parse_args()
  concurrent.futures.ThreadPoolExecutor(1)  # as JAX does; it needs the standard library's queue
  workdir, asked = values.workdir, []
  with claim(workdir):
    begin(workdir, json.dumps({"train": {"steps": values.steps}}))
    if not values.not_ready:
      signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    starts = workdir / "starts.jsonl"
    known = {name: os.environ.get(name) for name in ("XLA_FLAGS", "NPROC", "JAX_PLATFORMS")}
    with starts.open("a") as file:
      print(json.dumps({"pid": os.getpid(), "cores": sorted(os.sched_getaffinity(0)), "nice": os.nice(0), **known}), file=file)
    if len(starts.read_text().splitlines()) <= values.failures:
      sys.exit("the disk is on fire\n" * 2 + "ivid train: error: out of luck")
    saved = workdir / "saved"
    first = step = int(saved.read_text()) if saved.exists() else 0
    while step < values.steps and not asked and step - first < values.most:
      time.sleep(values.seconds)
      step += 1
      with (workdir / "metrics.jsonl").open("a") as file:
        print(json.dumps({"step": step, "train/loss": 1 / step}), file=file)
    saved.write_text(str(step))
    write_status(workdir, done=step == values.steps, step=step)


if __name__ == "__main__":
  main()
