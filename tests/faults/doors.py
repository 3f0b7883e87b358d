"""The doors: ways in for files, with what makes valid ones, which of them are edited, and what reads them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

from ivid.data.examine import encoded, examine
from ivid.data.windows import frames_at
from ivid.evaluate.folder import find_clips
from ivid.media.clips import ClipFile, write_clip
from ivid.media.picture import BLACK, MAX_PIXELS
from ivid.media.pictures import write_png
from ivid.sample import outputs, plan
from ivid.sample.cascades import load_text
from ivid.sample.entry import read_entry
from ivid.sample.keys import Sample
from ivid.sample.requests import repeat_request
from ivid.sample.runner import Clip
from ivid.spec import formats
from ivid.spec.clip import ClipShape
from ivid.spec.files import read_spec
from ivid.spec.prepare import PrepareSpec
from ivid.spec.run import CheckpointSpec, RunSpec, Short
from ivid.spec.stage import Task
from ivid.spec.view import View
from ivid.steps import init_state
from ivid.text import encoder, stored
from ivid.text.checkpoints import importing, t5x
from ivid.train.checkpoint import Checkpointer, Seen
from ivid.weights.cascades import file_sha256, open_cascade
from ivid.weights.ema import load_ema
from ivid.weights.tensors import read_weights
from tests.sample import tiny
from tests.text import t5_trees

CAPTIONS = [f"caption number {n}" for n in range(6)]
FRAMES = np.random.default_rng(0).integers(0, 256, (6, 4, 6, 3)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
PICTURE = 4 * MAX_PIXELS  # bytes that the largest picture takes while it is decoded
SHOWS = {"prompt": "a large red circle moves left on a black background"}


@dataclasses.dataclass(frozen=True)
class Door:
  """Files on their way in.

  Attributes:
    make: writes valid ones into a folder.
    edited: patterns of those that are edited.
    read: reads the folder; returns what shows whether something else was read than from the valid ones.
    memory: bytes that reading may take.
  """

  make: Callable[[pathlib.Path], None]
  edited: tuple[str, ...]
  read: Callable[[pathlib.Path], object]
  memory: int = 256 << 20


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
  found = []
  for name in ("whole", "upper"):
    metadata = outputs.load_metadata(str(folder / f"{name}.json"))
    # The clip's path is of the folder that was copied.
    request = repeat_request(cascade, metadata, str(folder / "clip.png") if name == "upper" else "", said_by=name)
    found.append(request.stages)
  return found


def read_cascade(folder):
  cascade = open_cascade(folder / "tiny")
  for name in cascade.spec.stage_names:
    cascade.check(name)
  params = cascade.load_stage(cascade.spec.stage_names[0])
  load_text(cascade, cascade.spec.stage_names)
  return cascade.spec, params


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
    return encoder.load_encoder(pathlib.Path(out) / "made").hash


def make_t5x(folder):
  params = t5_trees.nested(t5_trees.flat())
  t5x.write_t5x(folder / "t5", params)


def make_embeddings(folder):
  spec = dataclasses.replace(tiny.TEXT, max_tokens=48)
  small = encoder.TextEncoder(spec, t5_trees.nested(t5_trees.flat(spec=spec)))
  stored.write_embeddings(folder, small, CAPTIONS, length=32, shard_size=4)


def read_embeddings(folder):
  return stored.StoredEmbeddings(folder).embed(CAPTIONS)


def make_drawn(folder):
  from ivid.data import moving_shapes_builder as builders

  config = builders.MovingShapesConfig(name="tiny", clip=ClipShape(4, 12, 20, 0.75), num_clips=3, num_test=2, two_objects=0.5)
  builders.prepare(builders.MovingShapes(data_dir=folder, config=config))


def make_prepared(folder):
  from ivid.data.prepare import prepare

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
  return [source.clip(n) for n in range(source.clips)], source.image(0), list(all_captions(name, str(dir)))


def make_run(folder):
  """A checkpoint with sums of its arrays; small, as a restored array takes milliseconds."""
  rng = np.random.default_rng(0)
  params = {"dense": {"kernel": jnp.asarray(rng.standard_normal((16, 8)), jnp.float32), "bias": jnp.arange(8.0)}}
  stage = tiny.tiny_stage("base", Task.BASE, tiny.BASE)
  with Checkpointer(folder, CheckpointSpec(), stage) as checkpointer:
    checkpointer.save(init_state(params, optax.adam(1.0)), Seen(0, 2.5))


def make_png(folder):
  """A clip as PNG, with metadata, and a still."""
  write_clip(folder / "clip.png", FRAMES, 3.0, metadata=SHOWS)
  write_png(folder / "still.png", FRAMES[0])


def make_mp4(folder):
  write_clip(folder / "clip.mp4", FRAMES, 3.0, metadata=SHOWS)


def read_media(folder):
  """As `ivid sample --input`, `ivid data prepare --max_side`, training and `ivid evaluate --clips` read clips and stills."""
  return [*map(_pictures, sorted(folder.iterdir())), *map(_judged, find_clips(folder))]


def _pictures(path):
  stages = tiny.tiny_cascade("").stages
  entry = read_entry(path, stages[1].lowres.input, max_seconds=plan.longest_seconds(stages))
  media = path.read_bytes()
  facts = examine(media, path.name)
  encoded(media, facts, PrepareSpec(input="", max_side=12), BLACK)
  return entry.frames, dataclasses.astuple(facts), frames_at(media, np.arange(3) * facts.seconds / 4, 12, 16)


def _judged(pair):
  clip = ClipFile(pair[1])
  return pair[0].text, clip.shape, clip[[0, len(clip) - 1]]


def make_config(folder):
  from ivid.config import load_run
  from ivid.runs.workdir import run_json

  (folder / "config.json").write_text(run_json(load_run("nano:base")))


CHECKPOINT = ("**/meta/metadata", "**/ema/_METADATA", "**/ema/_sharding", "**/ema/**/manifest.ocdbt", "**/ema/**/d/*")
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
  "png": Door(make_png, ("*.png", "clip.png"), read_media, memory=PICTURE),
  "mp4": Door(make_mp4, ("*.mp4",), read_media, memory=PICTURE),
  "checkpoint": Door(make_run, CHECKPOINT, load_ema),
}
