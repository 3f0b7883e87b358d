"""Shares in two processes of launch/local.py, one of them killed, started again: the files of one process, to the last byte."""

import csv
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ivid.__main__ import main
from ivid.media.pictures import write_png
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


def pictures(folder, count):
  """A folder of captioned pictures of one colour each."""
  for n in range(count):
    write_png(folder / f"{n:03d}.png", np.full((16, 24, 3), 3 * n, np.uint8))
    (folder / f"{n:03d}.txt").write_text(f"grey number {n}")
  return folder


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
  """By name: what stands behind -- but for --out, and which of process 1's files say that it is at work."""
  folder = tmp_path_factory.mktemp("given")
  assert main(["data", "prepare", f"--out={folder / 'drawn'}", "--num_clips=30", "--num_test=2", "--size=4x8x12"]) == 0
  data = ["--config=tiny:base", "--config.data.name=tfds:moving_shapes", f"--config.data.dir={folder / 'drawn'}"]
  return {
    "embed": (["data", "embed", *data, "--shard_size=2", "--batch_size=2"], "*/*[13579]-of-*"),
    "prepare": (["data", "prepare", f"--input={pictures(folder / 'pictures', 80)}", "--shard_items=1", "--workers=1"], "**/*[13579]*"),
    "evaluate": (["evaluate", "--images", "--steps=1", "--prompts=4", "--batch_size=1"], "parts/*/*[13579].npz"),
  }


def results(folder):
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embed", "prepare", "evaluate"])
def test_commands_killed_and_started_again(tmp_path, commands, name):
  """Two processes, one killed at its work, started again: the files that one process writes."""
  command, of_process_1 = commands[name]
  one = [*LAUNCHER, "--processes=1", "--devices=1", "--", *command, f"--out={tmp_path}/one"]  # with the same flags of XLA
  subprocess.run(one, env=environment(), cwd=ROOT, check=True, timeout=1200)

  two, log = tmp_path / "two", tmp_path / "log"
  launch = [*LAUNCHER, "--processes=2", "--devices=1", "--", *command, f"--out={two}"]
  with log.open("w") as out:
    started = subprocess.Popen(launch, cwd=ROOT, env=environment(), stdout=out, stderr=out)
  while not list(two.glob(of_process_1)) and started.poll() is None:
    time.sleep(0.002)
  os.kill(int(re.search(r"1 is pid (\d+)", log.read_text())[1]), signal.SIGKILL)
  assert started.wait(timeout=1200) == 1
  assert "process 1 was killed by SIGKILL" in log.read_text() and "it makes what is missing" in log.read_text()
  whole, left = results(tmp_path / "one"), results(two)
  assert 0 < len(left) < len(whole)

  again = subprocess.run(launch, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=1200)
  assert again.returncode == 0 and "all processes ended well" in again.stdout, again.stdout
  have = results(two)
  assert sorted(have) == sorted(whole)
  assert [key for key in whole if have[key] != whole[key]] == []
  print(f"{name}: {len(left)} of {len(whole)} files after the kill, then all, and the same bytes")
