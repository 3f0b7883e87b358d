"""Frames that are given to a base: read from a user's pictures and clips, and checked."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ivid.media.fit import fit
from ivid.sample.entry import read_entry
from ivid.sample.resampling import RESAMPLINGS, given_method
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError, shown
from ivid.spec.record import GivenMethod, GivenRecord, GivenSource
from ivid.spec.stage import StageSpec
from ivid.weights.cascades import file_sha256

Frames = str | os.PathLike[str] | np.ndarray  # a file, or uint8 [t, h, w, 3] at the base's rate
_LIST = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
  """Frames of the base's output that are known.

  Attributes:
    frames: [T, H, W, 3] uint8 for the whole output of the base; black where nothing is given.
    mask: [T] bool, True for given frames.
    record: where they come from, and how they are given.
  """

  frames: np.ndarray
  mask: np.ndarray
  record: GivenRecord

  @property
  def notes(self) -> tuple[str, ...]:
    """What was done to the user's files, one line per file."""
    return tuple(f"given {source.file or 'frames'}: {change}" for source in self.record.sources for change in source.changes)


@dataclasses.dataclass(frozen=True, eq=False)
class Wish:
  """What one option asks for.

  Attributes:
    said: the option, for errors.
    clip: where its frames come from.
    frames: the frames of the base's output that are taken from it; None: all frames of the clip.
  """

  said: str
  clip: Frames
  frames: tuple[int, ...] | None


def read_given(
  base: StageSpec,
  *,
  trained: int,
  first_frame: Frames | None = None,
  given: Frames | tuple[Frames, Iterable[int]] | None = None,
  aspect: float = 0.0,
) -> Given | None:
  """The frames that a request gives to its first stage; None if it gives none, not even in a part of a longer clip.

  Args:
    base: the first stage, at the requested length.
    trained: number of frames that it was trained for. In a longer clip it continues its own frames, so nothing has to be given now.
    first_frame: a picture, or a clip whose first frame is used: a file, or uint8 [h, w, 3].
    given: a clip, `FILE:0-4,12`, or either with the numbers of frames. Frame k of the base is what the clip shows at k / fps seconds.
    aspect: width over height to which pictures are cut before they are resized; 0: that of the base.

  Raises:
    UserError: nothing can be read; frames lie beyond those of the base or the clip, or are given twice; or no frame is left to make.
  """
  wishes = []
  if first_frame is not None and not _empty(first_frame):
    picture = first_frame[None] if isinstance(first_frame, np.ndarray) and first_frame.ndim == 3 else first_frame
    wishes.append(Wish(f"--first_frame={_name(first_frame)}", picture, (0,)))
  if given is not None and not _empty(given):
    wishes.append(read_wish(given, base.output.frames))
  return take(base, wishes, aspect=aspect) if wishes or base.lowres is None and base.output.frames != trained else None


def repeat_given(base: StageSpec, record: GivenRecord | None, *, aspect: float, said_by: str) -> Given | None:
  """The frames that were given to a clip, from its metadata.

  Raises:
    UserError: as read_given; or the file has changed, the frames were only in memory, or the weights read given frames in another way.
  """
  if record is None:
    return None
  for source in record.sources:
    if not source.file:
      raise UserError(f"{said_by} was given frames in memory: expected frames of a file, which can be read again")
  wishes = [Wish(f"frames given by {source.file}", source.file, source.frames) for source in record.sources]
  found = take(base, wishes, aspect=aspect)
  for source, now in zip(record.sources, found.record.sources, strict=True):
    if source.sha256 != now.sha256:
      raise UserError(f"{source.file} is not the file that {said_by} was given frames of: its SHA-256 is {now.sha256[:12]}")
  if found.record.method is not record.method:
    raise UserError(f"{said_by}: given.method={record.method.value}: expected {found.record.method.value}, as the weights are")
  return dataclasses.replace(found, record=record)


def take(base: StageSpec, wishes: Sequence[Wish], *, aspect: float = 0.0) -> Given:
  """Reads what is asked for.

  Raises:
    UserError: as read_given.
  """
  if wishes and base.lowres is not None:
    raise UserError(f"{wishes[0].said}: stage {base.name} starts from a clip; expected the base as the first stage, which is given frames")
  frames, mask, sources = np.zeros(base.output.array, np.uint8), np.zeros(base.output.frames, bool), []
  for wish in wishes:
    made, source = _read(wish, base.output, aspect)
    taken = list(source.frames)
    if mask[taken].any():
      raise UserError(f"{wish.said}: frame {min(n for n in taken if mask[n])} is given by {wishes[0].said} too: expected each frame once")
    frames[taken], mask[taken] = made, True
    sources.append(source)
  if mask.all():
    count, fps = base.output.frames, base.output.fps
    more = f"fewer, such as 0-{count // 2 - 1}, or --seconds above {count / fps:.4g}" if count > 1 else "--seconds"
    raise UserError(f"{wishes[-1].said} leaves nothing to make: all {count} frames of stage {base.name} are given; expected {more}")
  method = given_method(base)
  return Given(frames, mask, GivenRecord(tuple(sources), method, 1 if method is GivenMethod.TRAINED else RESAMPLINGS))


def read_wish(given: Frames | tuple[Frames, Iterable[int]], count: int) -> Wish:
  """`given` of read_given, for a base of `count` frames."""
  if isinstance(given, tuple):
    clip, numbers = given
    return Wish(f"--given={_name(clip)}", clip, _numbers([(n, n) for n in numbers], count, f"given={_name(clip)}"))
  if isinstance(given, np.ndarray):
    return Wish(f"--given={_name(given)}", given, None)
  text = os.fspath(given)
  path, colon, listed = text.rpartition(":")
  if not colon or os.path.exists(text) or not (os.path.exists(path) or _LIST.fullmatch(listed)):
    return Wish(f"--given={text}", text, None)
  if not _LIST.fullmatch(listed):
    raise UserError(f"--given={text}: cannot read the frames {listed!r}: expected numbers and ranges such as 0-4,12")
  ends = [part.partition("-")[::2] for part in listed.split(",")]
  return Wish(f"--given={text}", path, _numbers([(int(a), int(b or a)) for a, b in ends], count, f"--given={text}"))


def _numbers(ranges: Sequence[tuple[int, int]], count: int, said: str) -> tuple[int, ...]:
  """The frames of ranges, including both ends, in rising order."""
  if not ranges:
    raise UserError(f"{said}: no frames: expected numbers such as 0, 1, 2")
  for first, last in ranges:
    if isinstance(first, bool) or not isinstance(first, int | np.integer):
      raise UserError(f"{said}: frame {shown(first)}: expected a whole number")
    if last < first:
      raise UserError(f"{said}: cannot read the frames {first}-{last}: expected {last}-{first}")
    if first < 0 or last >= count:
      raise UserError(f"{said}: frame {last if first >= 0 else first} is none of the base's: expected 0 to {count - 1}, or more --seconds")
  return tuple(sorted({int(n) for first, last in ranges for n in range(first, last + 1)}))


def _read(wish: Wish, want: ClipShape, aspect: float) -> tuple[np.ndarray, GivenSource]:
  """The requested frames [n, H, W, 3], and their source."""
  most = want.frames if wish.frames is None else wish.frames[-1] + 1
  if isinstance(wish.clip, np.ndarray):
    clip = wish.clip
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
      raise UserError(f"{wish.said}: expected uint8 [frames, height, width, 3]")
    made = np.stack([fit(frame, want.height, want.width, aspect=aspect) for frame in clip[:most]])
    source: dict[str, Any] = dict(file="", sha256=hashlib.sha256(np.ascontiguousarray(clip).tobytes()).hexdigest(), changes=())
  else:
    entry = read_entry(wish.clip, want, aspect=aspect, most=most)
    made = entry.frames
    source: dict[str, Any] = dict(file=os.fspath(wish.clip), sha256=file_sha256(pathlib.Path(wish.clip)), changes=entry.changes)
  frames = tuple(range(len(made))) if wish.frames is None else wish.frames
  if frames[-1] >= len(made):
    has = f"0 to {len(made) - 1}" if len(made) > 1 else "0 alone"
    raise UserError(
      f"{wish.said}: the clip lasts {len(made)} frames at {want.fps:g} a second and has no frame {frames[-1]}: expected {has}"
    )
  return made[list(frames)], GivenSource(frames=frames, **source)


def _empty(value: object) -> bool:
  return isinstance(value, str) and not value


def _name(clip: Frames) -> str:
  """What an error calls the clip."""
  if isinstance(clip, np.ndarray):
    return f"{clip.dtype} {list(clip.shape)}"
  return os.fspath(clip) if isinstance(clip, str | os.PathLike) else shown(clip)
