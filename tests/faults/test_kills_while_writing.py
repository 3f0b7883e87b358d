"""What samples, bundles, embeds and prepares, killed with SIGKILL while it writes: the same command again makes what it would have made.

At every moment each visible file is whole, and in the end nothing is left over.
"""

import shutil
import threading
import time

import numpy as np
import pytest

from ivid.data.shards import PARTS
from ivid.media.clips import write_clip
from ivid.spec.cascade import TextSpec
from ivid.text import encoder
from ivid.weights.cascades import open_cascade
from tests.faults.file_operations import contents, visible
from tests.faults.trials import CONFIG, changes, finish, killed, while_it_works
from tests.sample import tiny
from tests.text import t5_trees

KILLS = 20
PROMPTS = ("a red ball", "a red, ball", "a blue cube")
SMALL = TextSpec(name="small", dim=16, layers=1, heads=2, head_dim=8, mlp_dim=24, max_tokens=16)
FILES = 24
STAGE = "--config.train."
TRAIN = ("steps=2", "image_fraction=0.0", "checkpoint.every=1", "log_every=1", "eval_every=0", "sample_every=0")

pytestmark = pytest.mark.slow


class Command:
  """What is tried."""

  def prepare(self, workdir):
    """Makes what is there before."""
    workdir.mkdir()

  def is_sound(self, found, before, after):
    """Whether what is seen after a kill may be: files that have their final bytes."""
    return found.items() <= after.items()


class Sample(Command):
  """Three prompts, two of which have one slug, through three stages, each of which is saved."""

  def __init__(self, root, cache):
    self.cascade = tiny.write_tiny(root).folder

  def __call__(self, workdir):
    prompts = [f"--prompt={prompt}" for prompt in PROMPTS]
    return [
      "sample",
      f"--cascade={self.cascade}",
      f"--out={workdir / 'out'}",
      *prompts,
      "--batch_size=1",
      "--save_stages",
      "--contact_sheet",
    ]


class Share(Sample):
  """The same prompts as a run that goes on, with an index at its end."""

  def __call__(self, workdir):
    *options, sheet = super().__call__(workdir)
    assert sheet == "--contact_sheet"  # of all clips, which a run that goes on does not hold
    return [*options, "--process=0/1"]


class Bundle(Command):
  """A stage into a cascade that has an earlier state of it: one of both is whole at every moment."""

  def __init__(self, root, cache):
    self.run, self.before = root / "run", root / "before"
    finish(["train", CONFIG, f"--workdir={self.run}", *(STAGE + option for option in TRAIN)], cache)
    earlier = root / "earlier"
    shutil.copytree(self.run, earlier)
    shutil.rmtree(earlier / "checkpoints" / "2")
    finish(["bundle", CONFIG, f"--out={self.before / 'cascade'}", f"base={earlier}"], cache)
    assert open_cascade(self.before / "cascade").check("base").step == 1

  def prepare(self, workdir):
    shutil.copytree(self.before, workdir)

  def is_sound(self, found, before, after):
    return found in (before, after)

  def __call__(self, workdir):
    return ["bundle", CONFIG, f"--out={workdir / 'cascade'}", f"base={self.run}"]


class Prepare(Command):
  """Files of clips, two of which are the same and one is none, into several shards, by two processes."""

  def __init__(self, root, cache):
    self.files = root / "files"
    for n in range(FILES):
      write_clip(self.files / f"{n}.mp4", np.full((3, 16, 16, 3), 10 * max(n, 1), np.uint8), 6)
      (self.files / f"{n}.txt").write_text(f"clip {n}")
    (self.files / "none.mp4").write_bytes(b"none")

  def is_sound(self, found, before, after):
    return super().is_sound({name: data for name, data in found.items() if f"/{PARTS}/" not in name}, before, after)

  def __call__(self, workdir):
    return ["data", "prepare", f"--input={self.files}", f"--out={workdir / 'out'}", "--shard_items=2", "--workers=2"]


class Embed(Command):
  """The captions of a prepared data set, a shard for each."""

  def __init__(self, root, cache):
    prepared = Prepare(root, cache)
    finish(prepared(root), cache)
    encoder.save_encoder(root / "text", SMALL, t5_trees.nested(t5_trees.flat(spec=SMALL)))
    data = {"name": "tfds:clips", "dir": root / "out", "text_encoder": root / "text"}
    self.options = [f"--config.data.{name}={value}" for name, value in data.items()]

  def __call__(self, workdir):
    return ["data", "embed", CONFIG, *self.options, f"--out={workdir / 'out'}", "--shard_size=1", "--batch_size=1"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def timed(command, workdir, cache):
  """Runs it to its end; the seconds from the first change in its folder on."""
  began, before, over = [], changes(workdir), threading.Event()

  def watch():
    while not over.is_set() and changes(workdir) == before:
      time.sleep(0.005)
    began.append(time.monotonic())

  watcher = threading.Thread(target=watch)
  watcher.start()
  finish(command(workdir), cache)
  ended = time.monotonic()
  over.set()
  watcher.join()
  return ended - began[0]


@pytest.mark.parametrize("kind", [Bundle, Sample, Share, Embed, Prepare], ids=lambda kind: kind.__name__.lower())
def test_a_command(kind, cache, tmp_path):
  began = time.monotonic()
  command = kind(tmp_path, cache)
  whole = [tmp_path / f"whole{n}" for n in range(2)]
  for workdir in whole:
    command.prepare(workdir)
    before = contents(workdir)
    seconds = timed(command, workdir, cache)  # the second time as in all trials, with programs that are compiled
  after = contents(whole[0])
  assert contents(whole[1]) == after, "two runs that were left alone differ"

  def folders():
    for n in range(10 * KILLS):
      workdir = tmp_path / f"run{n}"
      command.prepare(workdir)
      yield workdir

  def check(workdir):
    found = contents(workdir)
    assert found.keys() == after.keys(), f"{workdir}: {sorted(found.keys() ^ after.keys())}"
    assert found == after, [name for name in after if found[name] != after[name]]

  def left(workdir):
    found, *known = (
      {name: data for name, data in visible(files).items() if data is not None} for files in (contents(workdir), before, after)
    )
    assert command.is_sound(found, *known), sorted(found)

  print(f"\n{kind.__name__}: works {seconds:.2f} s; ", end="")
  span = while_it_works(seconds * 1.1)
  killed(command, folders(), kills=KILLS, moment=span, seed=KILLS, cache=lambda number: cache, check=check, left=left)
  print(f"{time.monotonic() - began:.0f} s in all")
