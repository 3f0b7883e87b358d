"""Queues of launch/queue.py in tests, and what they leave behind."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

from tests.launch.runs import ROOT, environment, metrics

QUEUE = [sys.executable, str(ROOT / "launch" / "queue.py")]
WORKER = "tests.launch.queue_worker"


class Folder:
  """A folder with a queue's state and the work folders of its runs."""

  def __init__(self, path):
    self.path, self.state, self.log = path, path / "queue.json", path / "printed"
    self.processes = []

  def start(self, *runs, options=(), module=WORKER, cwd=None, **variables):
    options = [f"--state={self.state}", f"--module={module}", "--pause=0.1", "--write_seconds=0.1", "--say_seconds=0.2", *options]
    with self.log.open("a") as out:
      line = [*QUEUE, *options, "--", *runs]
      place = dict(cwd=cwd or self.path, env=environment(**variables), stdout=out, stderr=out)
      self.processes.append(subprocess.Popen(line, preexec_fn=_heeds_signals, **place))
    return self.processes[-1]

  def run(self, *runs, **more):
    return self.start(*runs, **more).wait(timeout=120)

  def until(self, found, seconds=60):
    deadline = time.monotonic() + seconds
    while not found():
      assert time.monotonic() < deadline and self.processes[-1].poll() is None, self.printed
      time.sleep(0.02)

  @property
  def printed(self):
    return self.log.read_text()

  def runs(self):
    return json.loads(self.state.read_text())["runs"] if self.state.exists() else []

  def column(self, name):
    return [run[name] for run in self.runs()]

  def starts(self, name):
    path = self.path / name / "starts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

  def reached(self, name, step):
    return lambda: max(metrics(self.path / name, "train/loss"), default=0) >= step


def _heeds_signals():
  """Whoever runs the tests in the background or by nohup ignores signals that a queue then leaves ignored."""
  for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


def locked(path):
  with path.open("a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      return True
  return False


def kill(workdir):
  """Kills a run that is no child of ours, and waits until it has gone."""
  os.kill(int((workdir / "pid").read_text()), signal.SIGKILL)
  while locked(workdir / ".lock"):
    time.sleep(0.02)


def table(folder):
  return subprocess.run([*QUEUE, f"--state={folder.state}", "--status"], capture_output=True, text=True, timeout=60)
