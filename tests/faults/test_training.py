"""`ivid train` refused, finished, interrupted, and with a full disk: what it says and what it leaves."""

import io
import json
import signal
import subprocess
import sys
import time

import pytest

from ivid.__main__ import main
from ivid.parallel import signals
from ivid.runs.preparing import prepare_files
from ivid.spec.errors import UserError
from ivid.spec.prepare import PrepareSpec
from ivid.train.metrics import MetricWriter
from tests.faults.trials import CONFIG, ROOT, SECONDS, start

OPTIONS = ("steps=4", "image_fraction=0.0", "checkpoint.every=2", "log_every=2", "eval_every=0")


def train(workdir, *more):
  return ["train", CONFIG, f"--workdir={workdir}", *(f"--config.train.{option}" for option in (*OPTIONS, *more))]


def contents(folder):
  """All files but those that only say which process has the folder."""
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "pid"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("finished") / "run"
  assert main(train(workdir)) == 0
  return workdir


@pytest.mark.parametrize(
  ("option", "message"),
  [
    ("optimizer.kind=adafactor", "train.optimizer.kind=adafactor: checkpoint {}/checkpoints/4 was trained with adam: expected the same"),
    ("ema_widths=(0.1,)", "train.ema_widths=(0.1,): checkpoint {}/checkpoints/4 was trained with (): expected the same"),
  ],
)
def test_a_refused_resume_changes_nothing(finished, capsys, option, message):
  before = contents(finished)
  assert main(train(finished, "steps=6", option)) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"ivid train: error: {message.format(finished)}")
  assert contents(finished) == before


def test_a_finished_run_says_so_and_changes_nothing(finished, capsys):
  before = contents(finished)
  assert main(train(finished)) == 0
  assert capsys.readouterr().err.splitlines() == [f"{finished} is complete at step 4: train.steps=4 asks for no more"]
  assert contents(finished) == before


def test_interrupted_it_saves_and_says_how_to_go_on(tmp_path):
  """As a shell starts it in the background: with SIGINT ignored."""
  workdir = tmp_path / "run"
  command = train(workdir, "steps=100000")
  cache = tmp_path / "cache"
  process = start(command, cache, through=("sh", "-c", "trap '' INT; exec \"$@\"", "sh"))
  deadline = time.monotonic() + SECONDS
  while not (workdir / "checkpoints" / "2").is_dir():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.02)
  process.send_signal(signal.SIGINT)
  said = process.communicate(timeout=SECONDS)[1].splitlines()
  assert process.returncode == 0
  assert "SIGINT: saves and ends after the current step (minutes if it is compiling); once more ends it at once" in said
  status = json.loads((workdir / "status.json").read_text())
  assert status["state"] == "stopped" and (workdir / "checkpoints" / str(status["step"])).is_dir()
  assert said[-1] == f"stopped at step {status['step']} and saved; the same command resumes: ivid {' '.join(command)}"


BUSY = """
import hashlib, time
from ivid.parallel import signals
with signals.listening():
  print("ready", flush=True)
  hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)  # as in a compiler: minutes, without the interpreter's lock
"""


def test_a_second_interrupt_ends_it_at_once():
  process = subprocess.Popen([sys.executable, "-c", BUSY], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  assert process.stdout.readline() == "ready\n"
  process.send_signal(signal.SIGINT)
  assert process.stderr.readline().startswith("SIGINT: saves and ends after")
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  assert process.wait(timeout=60) == signals.EXIT_INTERRUPTED
  assert process.stderr.read() == "SIGINT once more: ended at once\n"


def test_an_interrupted_preparation_ends_between_two_parts(monkeypatch, capsys, tmp_path):
  signal.signal(signal.SIGINT, signal.default_int_handler)  # also where these tests were started in the background
  done = []

  def prepare(spec, out, *, progress, **options):
    for part in range(3):
      done.append(part)
      signal.raise_signal(signal.SIGINT)
      progress(part + 1, 3)

  monkeypatch.setattr("ivid.runs.preparing.prepare", prepare)
  command = ["data", "prepare", f"--out={tmp_path / 'a b'}", f"--input={tmp_path}"]
  assert main(command) == 130
  assert done == [0]
  assert capsys.readouterr().err.splitlines()[-1] == (
    f"ivid data: interrupted; the same command goes on: ivid data prepare '--out={tmp_path / 'a b'}' --input={tmp_path}"
  )
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and not signals.asked()
  with pytest.raises(KeyboardInterrupt):
    prepare_files(PrepareSpec(), tmp_path)


@pytest.mark.parametrize("full", ["rows", "events"])
def test_no_room_for_metrics_is_one_line(tmp_path, full):
  writer = MetricWriter(tmp_path)
  assert not list(tmp_path.iterdir())  # nothing before the first row
  writer.write_scalars(1, {"train/loss": 1.0})
  if full == "rows":
    writer._file._file = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(UserError, match="^cannot write the metrics in .*: No space left on device; the same command goes on$"):
      writer.write_scalars(2, {"train/loss": 1.0})
  else:
    writer._trackers[0]._writer._py_recordio_writer._writer = io.BufferedWriter(io.FileIO("/dev/full", "w"))
    writer.write_scalars(2, {"train/loss": 1.0})
    with pytest.raises(UserError, match="^cannot write the metrics in .*: No space left on device; the same command goes on$"):
      writer.close()
  with pytest.raises(RuntimeError, match="what ends the run"), writer:
    raise RuntimeError("what ends the run")
  resumed = MetricWriter(tmp_path, from_step=1)
  resumed.write_scalars(2, {"train/loss": 2.0})
  resumed.close()
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert rows == [{"step": 1, "train/loss": 1.0}, {"step": 2, "train/loss": 2.0}]
