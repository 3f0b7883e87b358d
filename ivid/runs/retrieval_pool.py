"""The training data of the retrieval network: clips and captions that are drawn or read, and embedded once."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from ivid.data.example import Split
from ivid.data.prepared import Prepared
from ivid.evaluate.calibrate import CHANGES, change_any
from ivid.media.files import whole_file, write_whole
from ivid.moving_shapes import grammar
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.grammar import Attributes
from ivid.moving_shapes.scene import make_scene
from ivid.parallel import signals
from ivid.spec import convert, formats
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.files import read_mapping
from ivid.spec.retrieval import RetrievalTraining
from ivid.spec.run import TFDS, Short
from ivid.spec.view import View
from ivid.text.encoder import TextEncoder
from ivid.text.pooled import PooledEmbedder, write_pool
from ivid.train.progress import Progress

MOVING_SHAPES = "moving_shapes"
CLIPS, CAPTIONS, DESCRIPTION = "clips.npy", "captions.json", "pool.json"
# A group has one caption, and for each of these another that differs in one of the attributes: those that are hard to see are in
# every group, the easy ones in some.
CHANGED = (("shape",), ("motion",), CHANGES)
GROUP = 1 + len(CHANGED)
STREAM = 202  # random stream of scenes on which no stage trains
TWO_OBJECTS, HELD_OUT = 0.5, 0.5  # shares of the groups
SHIFT = 2  # largest shift of a clip in pixels; its edges are repeated


@dataclasses.dataclass(frozen=True)
class Pool:
  """Clips with captions.

  Attributes:
    clips: [N, T, H, W, 3] uint8, mapped from a file.
    captions: [N] texts.
    group: number of consecutive rows that belong into one batch, because they differ in one attribute.
  """

  clips: np.ndarray
  captions: Sequence[str]
  group: int


def open_pool(folder: pathlib.Path, options: RetrievalTraining, clip: ClipShape) -> Pool:
  """The pool in the folder. It is made first if it is not there.

  Raises:
    UserError: the folder holds another pool, or the data set does not exist or has too few clips.
  """
  group = GROUP if options.data == MOVING_SHAPES else 1
  drawn = options.scenes if options.data == MOVING_SHAPES else 1
  asked = dict(data=options.data, groups=options.groups, scenes=drawn, seed=options.seed, clip=convert.to_dict(clip), group=group)
  path = folder / DESCRIPTION
  if not path.is_file():
    made = _drawn(options, clip) if options.data == MOVING_SHAPES else _prepared(options, clip)
    captions = []
    with whole_file(folder / CLIPS) as temporary:
      shape = (options.groups * drawn * group, *clip.array)
      clips = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
      with Progress(total=len(clips), unit="clip") as progress:
        for n, (frames, caption) in enumerate(made):
          signals.end_if_asked()
          clips[n] = frames
          captions.append(caption)
          progress.update(n + 1)
      clips.flush()
    write_whole(folder / CAPTIONS, json.dumps(formats.stamped(dict(captions=captions))) + "\n")
    write_whole(path, json.dumps(formats.stamped(asked), indent=1) + "\n")
  found = read_mapping(path, formats.Kind.DATA)
  if found != asked:
    raise UserError(f"{folder} holds the clips of {found}: expected {asked}, or another --workdir")
  captions = read_mapping(folder / CAPTIONS, formats.Kind.DATA)["captions"]
  return Pool(np.load(folder / CLIPS, mmap_mode="r"), captions, group)


def embedded(folder: pathlib.Path, encoder: TextEncoder, captions: Sequence[str], length: int) -> PooledEmbedder:
  """The embeddings of the captions, kept in the folder. They are made first if they are not there. Raises UserError as write_pool."""
  with Progress(total=len(set(captions)), unit="caption") as progress:

    def shown(done: int, total: int) -> None:
      del total
      signals.end_if_asked()
      progress.update(done)

    made = write_pool(folder, encoder, captions, length=length, progress=shown)
  return PooledEmbedder(made, encoder, captions)


def batches(
  pool: Pool, embedder: PooledEmbedder, *, batch_size: int, length: int, seed: int, start: int
) -> Iterator[dict[str, np.ndarray]]:
  """Batches from update `start` on. Each only depends on (seed, update); every epoch has another order of groups.

  Yields `clips` uint8 [B, T, H, W, 3], `text` [B, L, D] with its `mask` [B, L], and `same` [B, B]: whether two captions are equal.
  """
  number = {caption: n for n, caption in enumerate(dict.fromkeys(pool.captions))}
  ids = np.array([number[caption] for caption in pool.captions])
  per_batch, groups = batch_size // pool.group, len(pool.clips) // pool.group
  step, epoch, order = start, -1, np.empty(0, np.int64)
  while True:
    places = np.arange(step * per_batch, (step + 1) * per_batch)
    chosen = []
    for place in places:
      if place // groups != epoch:
        epoch = int(place // groups)
        order = np.random.default_rng([seed, epoch]).permutation(groups)
      chosen.append(order[place % groups])
    rows = (np.array(chosen)[:, None] * pool.group + np.arange(pool.group)).reshape(-1)
    rng = np.random.default_rng([seed, step, 1])
    clips = np.stack([_shifted(pool.clips[row], *rng.integers(-SHIFT, SHIFT + 1, 2)) for row in rows])
    text, mask = embedder.embed([pool.captions[int(row)] for row in rows], length=length)
    yield dict(clips=clips, text=text, mask=mask, same=ids[rows][:, None] == ids[rows])
    step += 1


def group_of(rng: np.random.Generator, *, two_objects: bool, held_out: bool) -> list[Attributes]:
  """A scene's attributes, and others that differ in one of them, as CHANGED says."""
  said = grammar.sample_attributes(rng, two_objects, held_out)
  found = [change for names in CHANGED if (change := change_any(said, rng, names)) is not None]
  assert len(found) == len(CHANGED), said  # a shape and a motion always have another
  return [said, *(attributes for _, attributes in found)]


def _drawn(options: RetrievalTraining, clip: ClipShape) -> Iterator[tuple[np.ndarray, str]]:
  """Draws each group several times, every time as one scene in which one attribute changes."""
  times = np.arange(clip.frames) / clip.fps
  for number in range(options.groups):
    rng = np.random.default_rng([options.seed, number, STREAM])
    group = group_of(rng, two_objects=bool(rng.random() < TWO_OBJECTS), held_out=bool(rng.random() < HELD_OUT))
    for scene in range(options.scenes):
      for said in group:
        made = make_scene(options.seed, number * options.scenes + scene, aspect=clip.width / clip.height, said=said, stream=STREAM)
        frames = rounded(draw(made, times=times, height=clip.height, width=clip.width))
        yield frames, grammar.caption(said.objects, said.background)


def _prepared(options: RetrievalTraining, clip: ClipShape) -> Iterator[tuple[np.ndarray, str]]:
  if not options.data.startswith(TFDS):
    raise UserError(f"--data={options.data}: expected {MOVING_SHAPES} or {TFDS}NAME")
  view = View(clip, clip.frames, clip.height, clip.width, (1, 1, 1))
  made = Prepared(name=options.data, dir="", seed=options.seed, number=0, view=view, split=Split.TRAIN, short=Short.REJECT)
  if made.clips < options.groups:
    raise UserError(f"--groups={options.groups}: {options.data} has {made.clips} clips: expected at most as many")
  return map(made.clip, range(options.groups))


def _shifted(clip: np.ndarray, down: int, right: int) -> np.ndarray:
  """The clip [T, H, W, 3] shifted by so many pixels, with its edges repeated."""
  padded = np.pad(clip, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
  return padded[:, SHIFT - down : SHIFT - down + clip.shape[1], SHIFT - right : SHIFT - right + clip.shape[2]]
