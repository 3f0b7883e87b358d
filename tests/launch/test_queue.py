"""launch/queue.py with a stand-in for ivid, and with `ivid train` of tiny:base: in order, killed, stopped, failed and started again."""

import datetime
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from ivid.spec.formats import FORMAT
from tests.launch.queues import QUEUE, Folder, kill, locked, table
from tests.launch.runs import ROOT, metrics

CORE = min(os.sched_getaffinity(0))


@pytest.fixture
def folder(tmp_path):
  made = Folder(tmp_path)
  yield made
  for process in made.processes:
    process.kill()
    process.wait()
  for path in tmp_path.glob("*/pid"):
    if locked(path.with_name(".lock")):
      kill(path.parent)


def test_one_after_the_other_on_its_core(folder):
  runs = ["train --workdir=a --steps=4", "ivid distill --workdir 'b c'"]
  core = next((core for core in range(os.cpu_count()) if {core} != os.sched_getaffinity(0)), CORE)
  options = [f"--cores={core}", "--nice=3"]
  assert folder.run(*runs, options=options, XLA_FLAGS="--xla_a=1 --xla_force_host_platform_device_count=8") == 0, folder.printed
  assert folder.column("status") == ["done", "done"] and folder.column("exit_status") == [0, 0] and folder.column("pid") == [None, None]
  assert folder.column("command") == ["train --workdir=a --steps=4", "distill --workdir 'b c'"]
  assert folder.column("progress") == [{"steps": s, "step": s, "train/loss": 1 / s} for s in (4, 3)]
  first, second = folder.runs()
  assert first["started"] <= first["ended"] <= second["started"]
  assert (folder.path / "a" / "starts.jsonl").stat().st_mtime < (folder.path / "b c" / "starts.jsonl").stat().st_mtime
  (start,) = folder.starts("a")
  assert start["cores"] == [core] and start["nice"] == os.nice(0) + 3 and start["NPROC"] == "1" and start["JAX_PLATFORMS"] == "cpu"
  assert start["XLA_FLAGS"].split()[-2:] == ["--xla_a=1", "--xla_force_host_platform_device_count=1"]
  assert f"launch: {first['started']}: train --workdir=a --steps=4" in (folder.path / "a" / "log.txt").read_text()

  assert folder.run(*runs, "train --workdir=d", options=options) == 0
  assert folder.column("status") == ["done"] * 3 and folder.column("restarts") == [0] * 3
  assert len(folder.starts("a")) == len(folder.starts("b c")) == len(folder.starts("d")) == 1
  assert "launch: a: done, ended with status 0 at step 4 of 4, train/loss 0.25\n" in folder.printed
  rows = table(folder).stdout.splitlines()
  assert rows[1].split()[:2] == ["a", "done"] and rows[1].endswith("0     0         step 4 of 4, train/loss 0.25")
  assert rows[-1].endswith("no queue runs")

  shutil.rmtree(folder.path / "d")  # whoever removes a work folder wants the run anew
  assert folder.run(*runs, "train --workdir=d", options=options) == 0
  assert folder.column("restarts") == [0, 0, 1] and len(folder.starts("d")) == 1


def test_the_next_start_takes_up_what_the_killed_queue_left(folder):
  runs = ["train --workdir=a --steps=30 --seconds=0.1", "train --workdir=b"]
  queue = folder.start(*runs)
  folder.until(folder.reached("a", 2))
  queue.kill()
  queue.wait()
  (first,) = folder.starts("a")
  os.kill(first["pid"], 0)
  assert table(folder).stdout.splitlines()[-1].endswith("no queue runs")

  assert folder.run("train --workdir=b") == 2
  assert f"process {first['pid']} still runs 'train --workdir=a --steps=30 --seconds=0.1': expected it among the runs" in folder.printed

  queue = folder.start(*runs)
  folder.until(lambda: f"a: is already running, as process {first['pid']}; waiting for it" in folder.printed)
  folder.until(lambda: "launch: a: step " in folder.printed)
  folder.until(lambda: folder.column("progress")[0].get("step", 0) > 2)
  assert folder.column("status") == ["running", "waiting"] and folder.column("pid") == [first["pid"], None]
  assert f"the queue is process {queue.pid}" in table(folder).stdout
  assert queue.wait(timeout=60) == 0, folder.printed
  assert folder.starts("a") == [first] and len(folder.starts("b")) == 1
  assert folder.column("status") == ["done", "done"] and folder.column("exit_status") == [None, 0]


def test_a_run_that_ended_while_no_queue_watched(folder):
  runs = ["train --workdir=a --steps=8 --seconds=0.1", "train --workdir=b --steps=400 --seconds=0.1"]
  queue = folder.start(*runs)
  folder.until(folder.reached("a", 2))
  queue.kill()
  queue.wait()
  while not (folder.path / "a" / "status.json").exists() or locked(folder.path / "a" / ".lock"):
    time.sleep(0.02)
  assert folder.column("status") == ["running", "waiting"]

  queue = folder.start(*runs)  # a ended well: the next one starts
  folder.until(folder.reached("b", 2))
  assert len(folder.starts("a")) == 1 and folder.column("status") == ["done", "running"]
  queue.kill()
  queue.wait()
  kill(folder.path / "b")

  queue = folder.start(*runs)  # b did not: it is started again
  folder.until(lambda: len(folder.starts("b")) == 2)
  assert folder.column("status") == ["done", "running"] and folder.column("restarts") == [0, 1]


def test_an_ending_from_before_the_start_does_not_count(folder):
  for later, starts in ((0, 1), (60, 2)):
    assert folder.run("train --workdir=a") == 0
    stored = json.loads(folder.state.read_text())
    (run,) = stored["runs"]  # as the queue leaves it if it is killed
    started = datetime.datetime.fromisoformat(run["started"]) + datetime.timedelta(seconds=later)
    run |= {"status": "running", "started": started.isoformat()}
    folder.state.write_text(json.dumps(stored))
    assert folder.run("train --workdir=a") == 0
    assert folder.column("status") == ["done"] and len(folder.starts("a")) == starts


@pytest.mark.parametrize("format", [0, 1, 2])
def test_a_helper_that_outlived_its_run_is_not_waited_for(folder, format):
  run = "train --workdir=a"
  left = {"format": format, "pid": 2**22 + 1, "command": run, "workdir": str(folder.path / "a")}  # Linux gives no process so high a number
  with open(f"{folder.state}.run", "w") as held:
    json.dump(left if format else [*left.values()][1:], held)
    held.flush()
    fcntl.flock(held, fcntl.LOCK_EX)
    status = folder.run(run)
  if format < 2:
    assert status == 0 and len(folder.starts("a")) == 1, folder.printed
  else:
    assert status == 2 and ".run was written by another queue: format 2, expected 1" in folder.printed, folder.printed


def test_started_beside_queue_py(folder):
  """Python looks for modules in the folder where it starts; the standard library has a queue of its own."""
  assert folder.run(f"train --workdir={folder.path / 'a'}", cwd=ROOT / "launch") == 0, folder.printed


@pytest.mark.parametrize(
  ("number", "adopted"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, False), (signal.SIGHUP, True)]
)
def test_a_stop_is_not_an_end(folder, number, adopted):
  runs = ["train --workdir=a --steps=60 --seconds=0.1", "train --workdir=b"]
  queue = folder.start(*runs)
  folder.until(folder.reached("a", 2))
  if adopted:
    queue.kill()
    queue.wait()
    queue = folder.start(*runs)
    folder.until(lambda: "is already running" in folder.printed)
  queue.send_signal(number)
  assert queue.wait(timeout=60) == 0, folder.printed
  assert folder.column("status") == ["stopped", "waiting"] and not folder.starts("b")
  assert f"{number.name}: passed on to a, process {folder.starts('a')[0]['pid']}, which saves and ends" in folder.printed
  saved = int((folder.path / "a" / "saved").read_text())
  assert json.loads((folder.path / "a" / "status.json").read_text()) == {"format": FORMAT, "state": "stopped", "step": saved} and saved < 60
  if not adopted and number == signal.SIGTERM:
    assert folder.run(*runs) == 0
    assert folder.column("status") == ["done", "done"] and folder.column("restarts") == [1, 0]
    assert sorted(metrics(folder.path / "a", "train/loss")) == list(range(1, 61))


def test_a_stop_before_the_run_can_save(folder):
  queue = folder.start("train --workdir=a --steps=400 --seconds=0.1 --not_ready")
  folder.until(folder.reached("a", 1))
  queue.terminate()
  assert queue.wait(timeout=60) == 0, folder.printed
  assert folder.column("status") == ["stopped"] and folder.column("exit_status") == [-signal.SIGTERM]


def test_a_run_that_stops_by_itself_is_left_for_the_next_start(folder):
  runs = ["train --workdir=a --steps=4 --most=2", "train --workdir=b"]
  assert folder.run(*runs) == 0
  assert folder.column("status") == ["stopped", "done"] and folder.column("exit_status") == [0, 0]
  assert folder.run(*runs) == 0
  assert folder.column("status") == ["done", "done"] and len(folder.starts("a")) == 2 and len(folder.starts("b")) == 1


def test_failures(folder):
  runs = ["train --workdir=a --failures=9", "train --workdir=b --failures=1"]
  assert folder.run(*runs, options=["--retries=1"]) == 1
  assert folder.column("status") == ["failed", "done"] and folder.column("restarts") == [1, 1] and folder.column("exit_status") == [1, 0]
  assert len(folder.starts("a")) == len(folder.starts("b")) == 2
  log = folder.path / "a" / "log.txt"
  assert f"launch: a: {log} ends with: ivid train: error: out of luck\n" in folder.printed
  assert log.read_text().count("the disk is on fire\n") == 4
  assert folder.run(*runs[:1], "train --workdir=c", options=["--retries=0", "--stop_on_failure"]) == 1
  assert folder.column("status") == ["failed", "waiting"] and len(folder.starts("a")) == 3


def test_a_run_that_was_killed_is_started_again(folder):
  queue = folder.start("train --workdir=a --steps=20 --seconds=0.05")
  folder.until(folder.reached("a", 2))
  os.kill(folder.starts("a")[0]["pid"], signal.SIGKILL)
  (folder.path / "a" / "metrics.jsonl").unlink()  # as `ivid train` takes out what comes after its checkpoint
  assert queue.wait(timeout=60) == 0, folder.printed
  assert "a: failed, was killed by SIGKILL" in folder.printed and folder.column("restarts") == [1]


def test_a_second_queue_is_refused(folder):
  queue = folder.start("train --workdir=a --steps=400 --seconds=0.1")
  folder.until(folder.reached("a", 1))
  done = subprocess.run([*QUEUE, f"--state={folder.state}", "--", "train --workdir=b"], capture_output=True, text=True, timeout=60)
  assert done.returncode == 2 and done.stderr == f"launch: error: --state={folder.state} is in use by the queue of process {queue.pid}\n"


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--", "trian --workdir=a"], "run 1 is 'trian --workdir=a': expected one of train, distill and its flags, in one pair of quotes"),
    (["--", "train", "--config=nano:base"], "run 2 is '--config=nano:base': expected one of train, distill"),
    (["--", "train --workdir='a"], 'run 1, "train --workdir=\'a": No closing quotation'),
    (["--", "train --workdir=gs://b/a"], "run 1, --workdir=gs://b/a: expected a folder on this machine"),
    (
      ["--", "train --workdir=a/b", "distill --workdir a/c/../b"],
      "'distill --workdir a/c/../b' has the same work folder as 'train --workdir=a/b'",
    ),
    (["--"], "no runs: expected some after --"),
    (["--cores=0,999", "--", "train --workdir=a"], "argument --cores: 0,999 asks for 999: expected some of 0"),
    (["--cores=3-1", "--", "train --workdir=a"], "argument --cores: 3-1 asks for nothing: expected some of 0"),
    (["--cores=all", "--", "train --workdir=a"], "argument --cores: 'all': expected numbers, such as 0,1 or 2-5"),
    (["--nice=20", "--", "train --workdir=a"], "argument --nice: invalid choice: 20"),
    (["--retries=-1", "--", "train --workdir=a"], "--retries=-1: expected 0 or more"),
    (["--runs_file=nowhere"], "--runs_file=nowhere: No such file or directory"),
    (["--status"], "queue.json: No such file or directory"),
    (["--foo"], "unrecognized arguments: --foo"),
  ],
)
def test_bad_input_is_one_line(tmp_path, args, message):
  line = [*QUEUE, f"--state={tmp_path / 'queue.json'}", *args]
  done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
  assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
  assert not list(tmp_path.iterdir())


def test_a_runs_file_and_a_state_that_is_none(folder):
  (folder.path / "runs").write_text("# the base\n\ntrain --workdir=a  # quick: doesn't take long\n  ivid train --workdir=b\n")
  assert folder.run("train --workdir=c", options=["--runs_file=runs"]) == 0
  assert folder.column("command") == [f"train --workdir={name}" for name in "abc"]
  folder.state.write_text("{}")
  assert folder.run("train --workdir=c") == 2
  assert f"--state={folder.state} was not written by a queue: expected another name" in folder.printed


@pytest.mark.slow
def test_ivid_train_killed_and_done(folder):
  options = ["steps=12", "checkpoint.every=3", "log_every=1", "eval_every=0", "batch_size=1", "image_fraction=0.0"]
  run = " ".join(
    [f"train --config={ROOT / 'tests' / 'fixtures' / 'one_level.py'}:base --workdir=a", *(f"--config.train.{o}" for o in options)]
  )
  workdir = folder.path / "a"
  queue = folder.start(run, options=[f"--cores={CORE}"], module="ivid")
  folder.until((workdir / "checkpoints" / "3").is_dir, seconds=300)
  pid = int((workdir / "pid").read_text())
  threads = [os.sched_getaffinity(int(thread)) for thread in os.listdir(f"/proc/{pid}/task")]
  os.kill(pid, signal.SIGKILL)
  assert len(threads) > 5 and all(thread == {CORE} for thread in threads)
  assert queue.wait(timeout=300) == 0, folder.printed
  assert folder.column("status") == ["done"] and folder.column("restarts") == [1], folder.printed
  assert folder.column("progress")[0]["steps"] == folder.column("progress")[0]["step"] == 12
  assert json.loads((workdir / "status.json").read_text()) == {"format": FORMAT, "state": "done", "step": 12}
  assert (workdir / "log.txt").read_text().count("resuming a at step ") == 1
  assert sorted(metrics(workdir, "train/loss")) == list(range(1, 13))
