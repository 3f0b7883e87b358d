"""A process that dies before any of its file operations, and a disk that is full from any of them on: nothing is lost, nothing is left.

In each trial the same command is run again, and has to end bit for bit as if nothing had happened.
"""

import dataclasses
import resource

import numpy as np
import pytest

from ivid import __main__ as command_line
from ivid.data.prepare import prepare
from ivid.media import scratch
from ivid.media.clips import write_clip
from ivid.runs.preparing import draw
from ivid.sample import requests, runner
from ivid.spec.cascade import TextSpec
from ivid.spec.errors import UserError
from ivid.spec.prepare import PrepareSpec
from ivid.spec.run import DataSpec, MeshSpec, RunSpec, TrainSpec
from ivid.text import encoder, pooled, stored
from ivid.weights.cascades import open_cascade
from tests.faults.file_operations import Disk, Kill, contents, visible
from tests.sample import tiny
from tests.text import t5_trees

FEW = 4  # operations that are tried by default, spread evenly
LIMITS = (0, 100, 1000, 4000, 20_000)  # bytes that a file may have: what a library writes fails in the middle
SMALL = TextSpec(name="small", dim=16, layers=1, heads=2, head_dim=8, mlp_dim=24, max_tokens=48)
CAPTIONS = [f"caption number {n}" for n in range(11)]


class Command:
  """What is tried; called with the folder below which it writes `out`."""

  keeps_what_is_there = False

  def __init__(self, root, patch):
    pass

  def prepare(self, root):
    """Makes what is there before."""


class Sample(Command):
  """`ivid sample` of two prompts with one slug, in two stages; the network's work is done once."""

  keeps_what_is_there = True

  def __init__(self, root, patch):
    self.cascade = tiny.write_tiny(root).folder
    made = {}

    def replayed(cascade, stages, samples, **options):
      key = tuple(samples)
      made[key] = made.get(key) or list(runner.run_cascade(cascade, stages, samples, **options))
      for clip in made[key]:
        yield dataclasses.replace(clip, stage=next(stage for stage in stages if stage.name == clip.stage.name))

    patch.setattr(requests, "run_cascade", replayed)
    patch.setattr("ivid.runs.cache.enable_compilation_cache", lambda: None)

  def __call__(self, root):
    prompts = ["--prompt=a red ball", "--prompt=a red, ball"]
    options = ["--steps=1", "--batch_size=1", "--stop_stage=tsr1", "--save_stages", "--contact_sheet"]
    return command_line.main(["sample", f"--cascade={self.cascade}", f"--out={root}/out", *prompts, *options])


class Bundle(Command):
  """`ivid bundle` of two stages into a cascade that has others of them, and a third."""

  def __init__(self, root, patch):
    self.text = root / "text"
    spec = tiny.tiny_cascade(tiny.write_text(self.text))
    run = RunSpec("base", tiny.tiny_cascade(""), TrainSpec(), MeshSpec(), DataSpec(text_encoder=str(self.text)))
    self.step, params = 7, {stage.name: tiny.random_params(stage, 0) for stage in spec.stages}
    patch.setattr("ivid.bin.bundle.load_run", lambda config, overrides: run)
    patch.setattr("ivid.weights.ema.load_ema", lambda name: (spec.stage(name[2:]), params[name[2:]], self.step))

  def _bundle(self, root, *stages):
    words = [f"{stage}=W/{stage}" for stage in stages]
    return command_line.main(["bundle", "--config=tiny", f"--text={self.text}", f"--out={root}/out/cascade", *words])

  def prepare(self, root):
    self.step = 3
    self._bundle(root, "base", "tsr1", "ssr1")
    (root / "out" / "cascade" / "notes.txt").write_text("mine")
    self.step = 7

  def __call__(self, root):
    return self._bundle(root, "base", "ssr1")

  def check_after_kill(self, root, before, after):
    found = visible(contents(root / "out"))
    assert found in (before, after), "neither the old cascade nor the new one"
    steps = {open_cascade(root / "out" / "cascade").check(name).step for name in ("base", "ssr1")}
    assert len(steps) == 1


class Importing(Command):
  """What `ivid data import-t5` writes, over an encoder that is there."""

  def __init__(self, root, patch):
    del root, patch
    self.params = t5_trees.nested(t5_trees.flat(spec=SMALL))

  def prepare(self, root):
    encoder.save_encoder(root / "out" / "text", dataclasses.replace(SMALL, name="old"), self.params)

  def __call__(self, root):
    encoder.save_encoder(root / "out" / "text", SMALL, self.params)

  def check_after_kill(self, root, before, after):
    assert visible(contents(root / "out")) in (before, after)


class Embed(Command):
  """Embeddings of a data set, and of a pool of captions."""

  keeps_what_is_there = True

  def __init__(self, root, patch):
    del root, patch
    self.encoder = encoder.TextEncoder(SMALL, t5_trees.nested(t5_trees.flat(spec=SMALL)), batch_size=4)

  def __call__(self, root):
    stored.write_embeddings(root / "out" / "stored", self.encoder, CAPTIONS, length=32, shard_size=4)
    pooled.write_pool(root / "out" / "pool", self.encoder, CAPTIONS, length=32, shard_size=4)


class Prepare(Command):
  """`ivid data prepare` of files, two of which are the same and one is none."""

  def __init__(self, root, patch):
    del patch
    self.files = root / "files"
    for n, level in enumerate((40, 80, 40, 120)):
      write_clip(self.files / f"{n}.mp4", np.full((3, 16, 16, 3), level, np.uint8), 6)
      (self.files / f"{n}.txt").write_text(f"clip {n}")
    (self.files / "none.mp4").write_bytes(b"none")

  def __call__(self, root):
    prepare(PrepareSpec(input=str(self.files), shard_items=3), str(root / "out"), workers=1)


class Draw(Command):
  """`ivid data prepare` without --input."""

  def __call__(self, root):
    draw(root / "out", size="2x16x24", fps=None, num_clips=3, num_test=2, seed=0)


COMMANDS = (Sample, Bundle, Importing, Embed, Prepare, Draw)


@pytest.fixture(scope="module")
def patch():
  with pytest.MonkeyPatch.context() as found:
    found.delenv(command_line.TRACEBACK, raising=False)
    yield found


@pytest.fixture(scope="module", params=COMMANDS, ids=lambda kind: kind.__name__.lower())
def trial(request, tmp_path_factory, patch):
  """(command, what is there before it, what is there after it, its operations)."""
  root = tmp_path_factory.mktemp("whole")
  command = request.param(tmp_path_factory.mktemp("given"), patch)
  command.prepare(root)
  before = contents(root / "out")
  new_process()
  with Disk(root).watched(patch) as disk:
    assert not command(root)
  return command, before, contents(root / "out"), disk.operations


def new_process():
  """Forgets what a process remembers."""
  scratch._swept.clear()


def chosen(operations, every):
  """Which of them to try: all, or a few, with the one behind the first that gives something its name."""
  if every:
    return range(len(operations))
  named = next(n for n, (name, path) in enumerate(operations) if name in ("replace", "rename", "exchange") and "/." not in path)
  return sorted({min(named + 1, len(operations) - 1), *(round(n) for n in np.linspace(0, len(operations) - 1, FEW))})


def left_over(root):
  return [name for name in contents(root) if any(part.startswith((scratch.SCRATCH, scratch.BEFORE)) for part in name.split("/"))]


def fresh_roots(command, operations, tmp_path, every):
  """Each operation that is chosen, and a folder in which the command is about to begin as a new process."""
  for place in chosen(operations, every):
    root = tmp_path / str(place)
    root.mkdir()
    command.prepare(root)
    new_process()
    yield place, root


def killed(trial, tmp_path, monkeypatch, every):
  command, before, after, operations = trial
  for place, root in fresh_roots(command, operations, tmp_path, every):
    with Disk(root, killed_at=place).watched(monkeypatch), pytest.raises(Kill):
      command(root)
    found = visible(contents(root / "out")) if (root / "out").exists() else {}
    if hasattr(command, "check_after_kill"):
      command.check_after_kill(root, visible(before), visible(after))
    if command.keeps_what_is_there:
      assert {name: data for name, data in found.items() if data is not None}.items() <= after.items(), operations[place]
    new_process()
    assert not command(root)
    assert contents(root / "out") == after, f"killed before operation {place} of {len(operations)}, {operations[place]}"
    assert not left_over(root), operations[place]
  return len(chosen(operations, every))


def filled(trial, tmp_path, monkeypatch, capsys, every):
  command, before, after, operations = trial
  for place, root in fresh_roots(command, operations, tmp_path, every):
    capsys.readouterr()
    with Disk(root, full_at=place).watched(monkeypatch):
      said = refusal(command, root, capsys)
    check_refused(command, root, said, before, after, f"full from operation {place} of {len(operations)} on, {operations[place]}")
  return len(chosen(operations, every))


def refusal(command, root, capsys):
  """What the command says of a full disk: one line; none if there was nothing left to write."""
  try:
    status = command(root)
  except UserError as error:
    return [str(error)]
  except OSError as error:
    assert command_line.caused_by_user(error), repr(error)
    return [str(error)]
  if not status:  # there was nothing left to make, but something to remove
    return []
  said = capsys.readouterr().err.splitlines()
  assert status == 1 and len(said) == 1, said
  return said


def check_refused(command, root, said, before, after, where):
  assert len(said) <= 1 and all("\n" not in line for line in said), (where, said)
  assert all("No space left" in line or "cannot write" in line for line in said), (where, said)
  assert not (root / "out").exists() or not left_over(root), where
  if hasattr(command, "check_after_kill"):
    command.check_after_kill(root, visible(before), visible(after))
  new_process()
  assert not command(root)
  assert contents(root / "out") == after, where


def test_killed_before_an_operation(trial, tmp_path, monkeypatch):
  killed(trial, tmp_path, monkeypatch, every=False)


def test_disk_full_from_an_operation_on(trial, tmp_path, monkeypatch, capsys):
  filled(trial, tmp_path, monkeypatch, capsys, every=False)


@pytest.mark.slow
def test_killed_before_every_operation(trial, tmp_path, monkeypatch):
  print(killed(trial, tmp_path, monkeypatch, every=True), "kills")


@pytest.mark.slow
def test_disk_full_from_every_operation_on(trial, tmp_path, monkeypatch, capsys):
  print(filled(trial, tmp_path, monkeypatch, capsys, every=True), "full disks")


@pytest.mark.parametrize("limit", LIMITS)
def test_files_that_break_off(trial, tmp_path, capsys, limit):
  """What fails in the middle of a file, in whatever library writes it: here for want of more bytes in a file."""
  command, before, after, _ = trial
  root = tmp_path / "root"
  root.mkdir()
  command.prepare(root)
  new_process()
  capsys.readouterr()
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
  try:
    said = refusal(command, root, capsys)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  if limit == 0:
    assert said
  check_refused(command, root, said, before, after, limit)
