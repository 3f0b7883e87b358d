"""Forty prompts in two processes of launch/local.py, one of them killed, started again: the files of one process, to the last byte."""

import csv
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.runs import LAUNCHER, ROOT, environment
from tests.sample import tiny

PROMPTS = [f"a red ball number {n}" for n in range(40)]


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
  (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
  cascade = tiny.write_tiny(tmp_path).folder
  sample = ["sample", f"--cascade={cascade}", f"--prompts_file={tmp_path}/prompts.txt", "--batch_size=2", "--seed=1", "--stop_stage=tsr1"]
  line = [*sample, "--format=png", f"--out={tmp_path}/one", "--process=0/1"]
  subprocess.run([sys.executable, "-m", "ivid", *line], env=environment(XLA_FLAGS=""), cwd=ROOT, check=True, timeout=1200)

  two, log = tmp_path / "two", tmp_path / "log"
  launch = [*LAUNCHER, "--processes=2", "--devices=1", "--", *sample, "--format=png", f"--out={two}"]
  with log.open("w") as out:
    started = subprocess.Popen(launch, cwd=ROOT, env=environment(), stdout=out, stderr=out)
  while len(list(two.glob("*.json"))) < 8 and started.poll() is None:  # run.json and clips
    time.sleep(0.01)
  os.kill(int(re.search(r"1 is pid (\d+)", log.read_text())[1]), signal.SIGKILL)
  assert started.wait(timeout=1200) == 1
  printed, there = log.read_text(), len(list(two.glob("*.png")))
  assert "process 1 was killed by SIGKILL" in printed and "the others go on" in printed and "it makes what is missing" in printed
  assert 20 <= there < 40 and not (two / "index.csv").exists()

  again = subprocess.run(launch, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=1200)
  assert again.returncode == 0 and "process 0/2: 20 of 40 clips, 20 of them there already" in again.stdout, again.stdout
  assert again.stdout.count(".png") == 40 - there
  one = tmp_path / "one"
  assert {path.name: path.read_bytes() for path in two.iterdir()} == {path.name: path.read_bytes() for path in one.iterdir()}
  assert [row["prompt"] for row in csv.DictReader((two / "index.csv").open(newline=""))] == PROMPTS
  print(f"{there} of 40 clips after the kill, {40 - there} made by the second start")
