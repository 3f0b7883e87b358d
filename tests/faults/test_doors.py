"""Edited files at every door: one line or taken, never a traceback, never a wait without end.

A door is a way in for files: how valid ones are made, which of them are edited, and what reads them. The default run makes a few edits at
each; `-m slow` makes SLOW of them (and `Door.slow` where one takes long). An edit that fails is made again by its number:
`random.Random(f"{door}-{number}")`.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import safetensors.numpy

from ivid.media.clips import write_clip
from ivid.sample import outputs
from ivid.sample.cascades import load_text
from ivid.sample.keys import Sample
from ivid.sample.requests import repeat_request
from ivid.sample.runner import Clip
from ivid.spec import formats
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.files import read_spec
from ivid.spec.run import RunSpec, Short
from ivid.spec.view import View
from ivid.text import encoder, stored
from ivid.text.checkpoints import importing, t5x
from ivid.weights.cascades import file_sha256, open_cascade
from ivid.weights.ema import load_ema
from ivid.weights.tensors import read_weights
from tests.faults import edits
from tests.sample import tiny
from tests.text import t5_trees

FEW, SLOW = 8, 1000
SECONDS = 20  # for one file
MEMORY = 3 << 30  # bytes of addresses beyond those that the tests have
FORMAT0 = pathlib.Path(__file__).parents[1] / "fixtures" / "format0"
CAPTIONS = [f"caption number {n}" for n in range(6)]


@dataclasses.dataclass(frozen=True)
class Door:
  """Files on their way in.

  Attributes:
    make: writes valid ones into a folder.
    edited: patterns of those that are edited.
    read: reads the folder.
    slow: edits of the slow run; a restored checkpoint takes a second or two.
  """

  make: Callable[[pathlib.Path], None]
  edited: tuple[str, ...]
  read: Callable[[pathlib.Path], object]
  slow: int = SLOW


class Hang(Exception):
  """A file took longer than SECONDS."""


def make_cascade(folder):
  """A cascade and the metadata of two clips, one from noise and one from a clip."""
  cascade = tiny.write_tiny(folder)
  write_clip(folder / "clip.png", np.zeros((2, 8, 12, 3), np.uint8), 2.0)
  source = {"file": str(folder / "clip.png"), "sha256": file_sha256(folder / "clip.png"), "changes": ["cut"]}
  for name, stages, found in (("whole", cascade.spec.stages, None), ("upper", cascade.spec.stages[1:], source)):
    clip = Clip(stages[-1], 0, np.zeros(stages[-1].output.array, np.uint8), 2, 1)
    tiles = {"ssr1": (0, 0, 0)}
    metadata = outputs.clip_metadata(cascade, list(stages), Sample("a red ball", 3, 1), clip, tiles=tiles, source=found)
    (folder / f"{name}.json").write_text(json.dumps(metadata))


def read_metadata(folder):
  cascade = open_cascade(folder / "tiny")
  for name in ("whole", "upper"):
    metadata = outputs.load_metadata(str(folder / f"{name}.json"))
    # The clip's path is of the folder that was copied.
    request = repeat_request(cascade, metadata, str(folder / "clip.png") if name == "upper" else "", said_by=name)
    assert request.stages and len(request.keep) == 1


def read_cascade(folder):
  cascade = open_cascade(folder / "tiny")
  for name in cascade.spec.stage_names:
    cascade.check(name)
  cascade.load_stage(cascade.spec.stage_names[0])
  load_text(cascade, cascade.spec.stage_names)


def make_weights(folder):
  state = {"a/kernel": np.ones((3, 4), np.float32), "a/bias": np.zeros(4, np.float16), "b": np.float64(3.0)[None], "n": np.arange(3)}
  safetensors.numpy.save_file(state, folder / "weights.safetensors", metadata={"step": "3"})


def make_hugging_face(folder):
  t5_trees.write_sharded(folder, t5_trees.torch_names(t5_trees.flat()))
  config = {"feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-6, "relative_attention_max_distance": 128, "num_layers": 2}
  (folder / "config.json").write_text(json.dumps(config))


def read_import(folder):
  with tempfile.TemporaryDirectory() as out:
    importing.import_encoder(folder, pathlib.Path(out) / "made", tokenizer="bytes", param_dtype="float32")
    encoder.load_encoder(pathlib.Path(out) / "made")


def make_t5x(folder):
  params = t5_trees.nested(t5_trees.flat())
  t5x.write_t5x(folder / "t5", params)


def make_embeddings(folder):
  spec = dataclasses.replace(tiny.TEXT, max_tokens=48)
  small = encoder.TextEncoder(spec, t5_trees.nested(t5_trees.flat(spec=spec)))
  stored.write_embeddings(folder, small, CAPTIONS, length=32, shard_size=4)


def read_embeddings(folder):
  found = stored.StoredEmbeddings(folder)
  found.embed(CAPTIONS)


def make_drawn(folder):
  from ivid.data import moving_shapes_builder as builders

  config = builders.MovingShapesConfig(name="tiny", clip=ClipShape(4, 12, 20, 0.75), num_clips=3, num_test=2, two_objects=0.5)
  builders.prepare(builders.MovingShapes(data_dir=folder, config=config))


def make_prepared(folder):
  from ivid.data.prepare import prepare
  from ivid.spec.prepare import PrepareSpec

  source = folder / "files"
  source.mkdir()
  rng = np.random.default_rng(0)
  for n in range(4):
    frames = rng.integers(0, 256, (1 if n == 3 else 4, 12, 20, 3)).astype(np.uint8)
    write_clip(source / f"{n}.gif", frames, 2.0)
    (source / f"{n}.txt").write_text(f"clip number {n}")
  prepare(PrepareSpec(input=str(source), name="clips"), str(folder / "made"))


def read_data(folder):
  from ivid.data.example import Split
  from ivid.data.prepared import Prepared, all_captions

  dir, name = (folder, "tfds:moving_shapes") if (folder / "moving_shapes").is_dir() else (folder / "made", "tfds:clips")
  shape = ClipShape(4, 12, 20, 0.75) if dir == folder else ClipShape(2, 12, 20, 2.0)
  view = View(shape, shape.frames, 12, 20, (1, 1, 1))
  source = Prepared(name=name, dir=str(dir), seed=0, number=0, view=view, split=Split.TRAIN, short=Short.HOLD)
  for n in range(source.clips):
    source.clip(n)
  source.image(0)
  assert list(all_captions(name, str(dir)))


def make_run(folder):
  shutil.copytree(FORMAT0 / "run" / "checkpoints", folder / "checkpoints")


def make_config(folder):
  from ivid.config import load_run
  from ivid.runs.workdir import run_json

  (folder / "config.json").write_text(run_json(load_run("nano:base")))


DOORS = {
  "metadata": Door(make_cascade, ("*.json",), read_metadata),
  "cascade": Door(make_cascade, ("tiny/**/*.json",), read_cascade),
  "run config": Door(make_config, ("config.json",), lambda folder: read_spec(RunSpec, folder / "config.json", formats.Kind.RUN)),
  "safetensors": Door(make_weights, ("*.safetensors",), lambda folder: read_weights(folder / "weights.safetensors")),
  "hugging face": Door(make_hugging_face, ("*.json", "*.json", "*.safetensors"), read_import),
  "t5x": Door(make_t5x, ("t5/checkpoint", "t5/*/.zarray"), lambda folder: read_import(folder / "t5")),
  "embeddings": Door(make_embeddings, ("*/*",), read_embeddings),
  "drawn records": Door(make_drawn, ("moving_shapes/**/*.*",), read_data),
  "prepared records": Door(make_prepared, ("made/clips/*/*.*",), read_data),
  "checkpoint": Door(make_run, ("**/metadata", "**/_METADATA", "**/_sharding", "**/manifest.ocdbt", "**/d/*"), load_ema, slow=200),
}


@contextlib.contextmanager
def limits() -> Iterator[None]:
  """SECONDS, after which a Hang is raised, and MEMORY, beyond which a MemoryError is."""

  def ring(number, frame):
    raise Hang

  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) if pathlib.Path("/proc/self/statm").exists() else None
  before, old = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, ring)
  if pages is not None:
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
  signal.alarm(SECONDS)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)
    resource.setrlimit(resource.RLIMIT_AS, before)


def edit(path: pathlib.Path, rng: random.Random) -> str:
  """Edits one file; says how."""
  data = path.read_bytes()
  try:
    value = json.loads(data)
  except ValueError:
    value = None
  if path.suffix == ".safetensors" and rng.random() < 0.6:
    edited, said = edits.edit_header(data, rng)
  elif isinstance(value, dict) and value and rng.random() < 0.85:
    text, said = edits.edit_json(value, rng)
    edited = text.encode("utf-8", "surrogatepass")
  else:
    edited, said = edits.edit_bytes(data, rng)
  path.write_bytes(edited)
  return said


def outcome(read: Callable[[pathlib.Path], object], folder: pathlib.Path) -> tuple[str, str]:
  """What becomes of files: refused, accepted, traceback or hang; and the message."""
  try:
    with limits(), warnings.catch_warnings():
      warnings.simplefilter("ignore")
      read(folder)
  except UserError as error:
    return "refused", str(error)
  except Hang:
    return "hang", ""
  except Exception:
    return "traceback", traceback.format_exc()
  return "accepted", ""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[[str], pathlib.Path]:
  """The valid files of a door; doors that share what makes them share them."""
  folders: dict[Callable[[pathlib.Path], None], pathlib.Path] = {}

  def get(name: str) -> pathlib.Path:
    make = DOORS[name].make
    if make not in folders:
      folders[make] = tmp_path_factory.mktemp("door")
      make(folders[make])
    return folders[make]

  return get


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("name", DOORS)
def test_edits_of_valid_files(name, many, made, tmp_path, capsys):
  door, valid = DOORS[name], made(name)
  count = door.slow if many else FEW
  assert outcome(door.read, valid) == ("accepted", "")
  found, failed = collections.Counter(), []
  for number in range(count):
    rng, folder = random.Random(f"{name}-{number}"), tmp_path / str(number)
    shutil.copytree(valid, folder)
    files = sorted(path for path in folder.glob(rng.choice(door.edited)) if path.is_file())
    path = rng.choice(files)
    said = edit(path, rng)
    kind, message = outcome(door.read, folder)
    found[kind] += 1
    if kind in ("traceback", "hang"):
      failed.append(f"{name}-{number}: {path.relative_to(folder)}, {said}: {kind}\n{message}")
    shutil.rmtree(folder)
  with capsys.disabled():
    if many:
      print(f"\n{name}: {count} edits, " + ", ".join(f"{kind} {found[kind]}" for kind in ("refused", "accepted", "traceback", "hang")))
  assert not failed, f"{len(failed)} of {count}\n" + "\n".join(failed[:5])
  assert found["refused"]


def test_an_edit_follows_from_its_generator():
  value = {"a": [1, {"b": "c"}], "d": None}
  assert [edits.edit_json(value, random.Random(n)) for n in range(50)] == [edits.edit_json(value, random.Random(n)) for n in range(50)]
  kinds = {edits.edit_json(value, random.Random(n))[1].partition(" at ")[0] for n in range(300)}
  assert kinds == set(edits.KINDS) and value == {"a": [1, {"b": "c"}], "d": None}
  data = bytes(range(100))
  assert sum(edits.edit_bytes(data, random.Random(n))[0] != data for n in range(100)) > 90
