"""Edited files through the commands that read them, each in a process of its own: one line or taken, in seconds and bounded memory."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivid.media.clips import write_clip
from ivid.sample import outputs
from ivid.sample.keys import Sample
from ivid.sample.runner import Clip
from ivid.spec.run import CheckpointSpec
from ivid.steps import init_state
from ivid.train.checkpoint import Checkpointer, Seen
from ivid.weights.ema import load_ema
from tests.faults import doors, trials
from tests.faults.edited import try_edits
from tests.sample import tiny

EDITS = 50
SECONDS = 120  # for one process, of which others may take the cores
MEMORY = 256 << 20  # bytes that an edited file may take beyond the valid one
FORMAT0 = trials.ROOT / "tests" / "fixtures" / "format0"
SMALL = [f"--config={FORMAT0}/small.py:base", f"--config.data.text_encoder={FORMAT0}/cascade/text"]
NOTES = ("--input=", "stage ", "shard ", "checkpoint ", "captions")  # how lines begin that a command may say before its error
STATUS = {0: "accepted", 1: "refused", 2: "refused"}
OUTCOMES = ("refused", "accepted", "traceback", "hang", "over memory", "not one line")


@dataclasses.dataclass(frozen=True)
class Command:
  """What reads files.

  Attributes:
    make, edited: as of tests.faults.doors.Door.
    args: of `ivid`, from the folder of the files and the one that is written.
    memory: bytes that it may take beyond what it takes for the valid files.
  """

  make: Callable[[pathlib.Path], None]
  edited: tuple[str, ...]
  args: Callable[[pathlib.Path, pathlib.Path], list[str]]
  memory: int = MEMORY


def make_sampling(folder):
  """A cascade, what its base stage makes, and that as PNG."""
  cascade = tiny.write_tiny(folder)
  base = cascade.spec.stages[0]
  stages = [dataclasses.replace(base, sampling=dataclasses.replace(base.sampling, steps=1))]
  clip = Clip(stages[0], 0, np.full(base.output.array, 90, np.uint8), 1, 0)
  metadata = outputs.clip_metadata(cascade, stages, Sample("a red ball", 3, 1), clip, tiles={}, source=None)
  (folder / "base.json").write_text(json.dumps(metadata))
  write_clip(folder / "clip.png", clip.frames, base.output.fps, metadata=metadata)


def make_files(folder):
  """What `ivid data prepare` reads."""
  doors.make_mp4(folder)
  (folder / "clip.txt").write_text("a red ball")


def make_run(folder):
  spec, params, _ = load_ema(FORMAT0 / "run")
  with Checkpointer(folder, CheckpointSpec(), spec) as checkpointer:
    checkpointer.save(init_state(params, optax.sgd(1.0)).replace(step=jnp.int32(5)), Seen(0, 2.5))


def sample(folder, out, *more):
  return ["sample", f"--cascade={folder}/tiny", f"--out={out}", *more]


def sample_base(folder, out):
  return sample(folder, out, "--prompt=a red ball", "--stop_stage=base", "--steps=1")


def embed(folder, out):
  return ["data", "embed", *SMALL, "--config.data.name=tfds:clips", f"--config.data.dir={folder}/made", f"--out={out}"]


COMMANDS = {
  "metadata": Command(make_sampling, ("base.json",), lambda folder, out: sample(folder, out, f"--from_metadata={folder}/base.json")),
  "cascade": Command(make_sampling, ("tiny/*.json", "tiny/base/*.json", "tiny/text/*.json"), sample_base),
  "safetensors": Command(make_sampling, ("tiny/base/*.safetensors", "tiny/text/*.safetensors"), sample_base),
  "png": Command(
    make_sampling,
    ("clip.png",),
    lambda folder, out: sample(folder, out, f"--input={folder}/clip.png", "--start_stage=tsr1", "--stop_stage=tsr1", "--steps=1"),
    doors.PICTURE,
  ),
  "mp4": Command(
    make_files,
    ("*.mp4",),
    lambda folder, out: ["data", "prepare", f"--input={folder}", "--workers=1", "--max_side=12", f"--out={out}"],
    doors.PICTURE,
  ),
  "records": Command(doors.make_prepared, ("made/clips/*/*.*",), embed),
  "checkpoint": Command(
    make_run, doors.CHECKPOINT, lambda folder, out: ["bundle", *SMALL, f"--text={FORMAT0}/cascade/text", f"--out={out}", f"base={folder}"]
  ),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Arguments of `ivid` -> its exit status (below 0: the signal that ended it), standard error, and the most bytes of memory."""
  root = tmp_path_factory.mktemp("commands")
  pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None)
  with trials.start((), root / "compiled", module="tests.faults.forked", **pipes) as server:

    def run(args):
      print(json.dumps({"args": args, "stderr": str(root / "stderr"), "seconds": SECONDS}), file=server.stdin, flush=True)
      ended = json.loads(server.stdout.readline())
      return ended["status"], (root / "stderr").read_text(encoding="utf-8", errors="replace"), ended["memory"]

    yield run
    server.stdin.close()


def outcome(status: int, said: str, memory: int, most: int) -> str:
  """One of OUTCOMES."""
  if "Traceback" in said or (status not in STATUS and status != -signal.SIGKILL):
    return "traceback"
  if status == -signal.SIGKILL:
    return "hang"
  if memory > most:
    return "over memory"
  *before, last = [line.rpartition("\r")[2] for line in said.splitlines()] or [""]
  one_line = last.startswith("ivid ") and ": error: " in last and all(line.startswith(NOTES) for line in before if line.strip())
  return "not one line" if status and not one_line else STATUS[status]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_edits_through_the_command(name, run, tmp_path, capsys):
  command, valid = COMMANDS[name], tmp_path / "valid"
  valid.mkdir()
  command.make(valid)
  trials.finish(command.args(valid, tmp_path / "started"), tmp_path / "compiled")  # begun as users begin it
  started = time.monotonic()
  status, said, memory = run(command.args(valid, tmp_path / "out"))
  assert status == 0, said
  most = memory + command.memory

  def judge(folder):
    out = tmp_path / "edited"
    status, said, memory = run(command.args(folder, out))
    shutil.rmtree(out, ignore_errors=True)
    return outcome(status, said, memory, most), f"{status}, {memory >> 20} MB: {said}"

  found, failed = try_edits(name, EDITS, valid, command.edited, judge, folder=tmp_path, fine=STATUS.values())
  with capsys.disabled():
    seconds = f"{(time.monotonic() - started) / (EDITS + 1):.1f} s each"
    print(f"\n{name}: {EDITS} edits, {seconds}, " + ", ".join(f"{kind} {found[kind]}" for kind in OUTCOMES))
  assert not failed, f"{len(failed)} of {EDITS}\n" + "\n".join(failed[:5])
  assert found["refused"]
