"""Sets of clips to compare: from a folder, from a prepared data set, drawn, or made by a cascade."""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ivid.data.clips import clip_files
from ivid.data.example import Split
from ivid.evaluate.features import ClipSet
from ivid.evaluate.judged import Judging, made_by
from ivid.evaluate.prompts import GROUPS, seeded_prompts
from ivid.media.clips import read_clip
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.scene import CLIP_SECONDS, make_scene
from ivid.sample.entry import read_entry
from ivid.spec import convert
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.run import TFDS, Short
from ivid.spec.stage import StageSpec
from ivid.spec.view import View
from ivid.weights.cascades import CascadeFolder, file_sha256

MOVING_SHAPES = "moving_shapes"
REAL_SEED = 1 << 20  # added to the seed of drawn clips, so that their prompts differ from those of a cascade with the same seed
SLACK = 1e-3  # seconds


def folder_clips(folder: str) -> ClipSet:
  """The clips of a folder and its subfolders, by name and unchanged. The first one determines the shape of all.

  Raises:
    UserError: there is no such folder, or it has no clips; or, once it is read, a clip is damaged or has another length or size.
  """
  files = clip_files(pathlib.Path(folder))
  frames, fps = read_clip(files[0])
  shape = ClipShape(*frames.shape[:3], fps=float(fps))

  def clips(numbers: Sequence[int]) -> Iterator[np.ndarray]:
    for n in numbers:
      clip = read_clip(files[n], max_frames=shape.frames + 1)[0]
      if clip.shape != shape.array:
        found = f"{'at least ' * (len(clip) > shape.frames)}{'x'.join(map(str, clip.shape[:3]))}"
        raise UserError(f"{files[n]} is {found}: expected {shape.size}, as {files[0].name} is: clips of one length and size")
      yield clip

  return ClipSet(str(folder), dict(files=_digest(files)), shape, len(files), shape.width / shape.height, clips)


def real_clips(source: str, shape: ClipShape, *, count: int, aspect: float, groups: Sequence[str] = GROUPS, seed: int = 0) -> ClipSet:
  """The real clips with which clips of that shape are compared.

  Args:
    source: moving_shapes, tfds:NAME, or a folder of clips at least as long, which are cropped to the aspect and resampled.
    count: number of clips; 0: all, which drawn sources do not support.
    aspect: width over height of the scene in a picture.
    groups: groups of prompts, for moving_shapes.

  Raises:
    UserError: the source is unknown or has fewer clips.
  """
  if source == MOVING_SHAPES:
    return _drawn(shape, count=count, aspect=aspect, groups=groups, seed=seed)
  if source.startswith(TFDS):
    return _prepared(source, shape, count=count, seed=seed)
  if not pathlib.Path(source).is_dir():
    raise UserError(f"real={source!r}: expected {MOVING_SHAPES}, {TFDS}NAME, or a folder of clips")
  files = clip_files(pathlib.Path(source))
  _check_count(source, len(files), count)
  files = files[: count or None]

  def clips(numbers: Sequence[int]) -> Iterator[np.ndarray]:
    for n in numbers:
      clip = read_entry(files[n], shape, aspect=aspect, most=shape.frames).frames
      if len(clip) < shape.frames:
        raise UserError(f"{files[n]} has {len(clip)} frames at {shape.fps:g} a second: expected {shape.frames} or more, to be compared")
      yield clip

  return ClipSet(source, dict(files=_digest(files), shape=convert.to_dict(shape), aspect=aspect), shape, len(files), aspect, clips)


def cascade_clips(cascade: CascadeFolder, stages: Sequence[StageSpec], judging: Judging, *, seed: int) -> ClipSet:
  """The last stage's clip of each prompt, as judged.from_cascade makes them. Raises UserError as CascadeFolder.check."""
  weights = cascade.hashes(spec.name for spec in stages)
  texts = hashlib.sha256("\n".join(prompt.text for prompt in judging.prompts).encode()).hexdigest()
  identity = made_by(cascade, stages, seed=seed) | dict(weights=weights, prompts=texts, text=convert.to_dict(cascade.spec.text))
  name, count = f"cascade {cascade.spec.name} to {stages[-1].name}", len(judging.prompts)
  clips: Any = judging.clips  # clips in files are indexed like arrays
  return ClipSet(name, identity, stages[-1].output, count, cascade.spec.aspect, clips)


def _drawn(shape: ClipShape, *, count: int, aspect: float, groups: Sequence[str], seed: int) -> ClipSet:
  if shape.seconds > CLIP_SECONDS + SLACK:
    raise UserError(f"real={MOVING_SHAPES}: clips of {shape.seconds:.3g} s: expected at most the {CLIP_SECONDS:.3g} s that it draws")
  if count < 1:
    raise UserError(f"real={MOVING_SHAPES}: {count} clips: expected 1 or more")
  seed = REAL_SEED + seed
  prompts = seeded_prompts(seed, -(-count // len(groups)), tuple(groups))[:count]
  times = np.arange(shape.frames) / shape.fps

  def clips(numbers: Sequence[int]) -> Iterator[np.ndarray]:
    for n in numbers:
      scene = make_scene(seed, n, aspect=aspect, said=prompts[n].attributes)
      yield rounded(draw(scene, times=times, height=shape.height, width=shape.width))

  identity = dict(drawn=MOVING_SHAPES, seed=seed, groups=list(groups), aspect=aspect, shape=convert.to_dict(shape), first=_look(clips))
  return ClipSet(MOVING_SHAPES, identity, shape, count, aspect, clips)


def _prepared(source: str, shape: ClipShape, *, count: int, seed: int) -> ClipSet:
  """The held-out clips of a prepared data set if there are enough, otherwise those of training."""
  from ivid.data.folder import read_splits  # TFDS takes seconds to import
  from ivid.data.prepared import DESCRIPTION, EVAL_SPLITS, Prepared, find_folder

  folder = find_folder(source, "")
  view = View(shape, shape.frames, shape.height, shape.width, (1, 1, 1))
  has = {split.name for split in read_splits(folder)}
  splits = [split for split, names in ((Split.EVAL, EVAL_SPLITS), (Split.TRAIN, ("train",))) if has & set(names)]
  for split in splits:
    made = Prepared(name=source, dir="", seed=seed, number=0, view=view, split=split, short=Short.REJECT)
    if made.clips >= count:
      break
  _check_count(source, made.clips, count)
  identity = dict(description=file_sha256(folder / DESCRIPTION), split=split.value, seed=seed, shape=convert.to_dict(shape))
  clips = functools.partial(map, lambda n: made.clip(n)[0])  # pyright: ignore[reportArgumentType]  a number
  return ClipSet(f"{source} ({split.value})", identity, shape, count or made.clips, shape.width / shape.height, clips)


def _check_count(source: str, have: int, count: int) -> None:
  if have < count:
    raise UserError(f"{source} has {have} clips: expected {count}, or real_clips={have}")


def _digest(files: Sequence[pathlib.Path]) -> str:
  """A digest of the files' contents in this order."""
  return hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()


def _look(clips) -> str:
  """SHA-256 of the first clip: if a newer ivid draws differently, this is another source."""
  return hashlib.sha256(next(clips([0])).tobytes()).hexdigest()
