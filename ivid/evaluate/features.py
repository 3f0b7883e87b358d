"""I3D's features of sets of clips, in parts that stay on disk: none is computed twice, and several processes share the work."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ivid.evaluate import i3d
from ivid.media.files import whole_file, write_whole
from ivid.nets.i3d import LOGITS, MIN_FRAMES, SIDE
from ivid.spec import convert, formats
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError, first_line
from ivid.spec.stage import Filter
from ivid.train.progress import Progress

PART = 16  # clips whose features are in one file
FRAMES = 128  # largest size of the clips that go through the network together
DESCRIPTION = "features.json"
NETWORK = "I3D Kinetics-400"


@dataclasses.dataclass(frozen=True)
class Convention:
  """The convention by which features are computed. Distances are only comparable under the same convention.

  Attributes:
    clip: size and rate of all clips of both sets.
    layer: one of ivid.nets.i3d.LAYERS.
    still: whether every frame counts by itself (I3D's `still`) rather than the clip as a whole.
    kernel: the resize kernel; pictures are squeezed to SIDE x SIDE.
    weights: SHA-256 of the file of I3D's weights.
  """

  clip: ClipShape
  layer: str = LOGITS
  still: bool = False
  kernel: Filter = Filter.TRIANGLE
  weights: str = i3d.SHA256

  def __post_init__(self):
    i3d.check_layer(self.layer)
    if not self.still and self.clip.frames < MIN_FRAMES:
      raise UserError(f"clips of {self.clip.frames} frames: expected {MIN_FRAMES} or more, which I3D's logits want")

  @property
  def name(self) -> str:
    """The name of the distance: FVD, or a name that says what differs from it."""
    return f"frames {self.layer}" if self.still else "fvd" if self.layer == LOGITS else f"clips {self.layer}"

  @property
  def samples(self) -> int:
    """The number of rows of features per clip."""
    return self.clip.frames if self.still else 1

  @property
  def record(self) -> dict[str, Any]:
    """The convention as JSON has it."""
    return convert.to_dict(self) | dict(network=NETWORK, side=SIDE, aspect="squeezed")

  def __str__(self) -> str:
    what = "each frame alone" if self.still else f"{self.clip.frames} frames"
    kernel = {Filter.TRIANGLE: "bilinear", Filter.BOX: "box"}[self.kernel]
    return f"{what} of {self.clip.height}x{self.clip.width}, squeezed to {SIDE}x{SIDE} ({kernel}), layer {self.layer} of {NETWORK}"


@dataclasses.dataclass(frozen=True)
class ClipSet:
  """A set of numbered clips.

  Attributes:
    name: shown to people.
    identity: everything on which the clips depend except their number, as JSON has it.
    shape: shape of each clip.
    count: number of clips.
    aspect: width over height of the scene in a picture, which may be squeezed.
    clips: yields the clips uint8 [T, H, W, 3] with the given rising numbers.
  """

  name: str
  identity: dict[str, Any]
  shape: ClipShape
  count: int
  aspect: float
  clips: Callable[[Sequence[int]], Iterator[np.ndarray]]


class Extractor:
  """Computes the features of clips by a convention, for at most `batch` clips at a time."""

  def __init__(self, convention: Convention, params: Any):
    size = convention.clip
    self.batch = max(1, min(PART, FRAMES // size.frames))
    self._convention, self._params = convention, jax.device_put(params)
    shape = (size.frames, size.height, size.width)
    self._run = i3d.make_i3d(shape, layers=(convention.layer,), still=convention.still, kernel=convention.kernel)

  def __call__(self, clips: Sequence[np.ndarray]) -> np.ndarray:
    """Features [n, samples, D] float32 of n clips uint8 [T, H, W, 3]. A smaller batch is filled up, so that one program serves all."""
    filled = np.stack([*clips, *[clips[-1]] * (self.batch - len(clips))])
    rows = np.asarray(self._run(self._params, filled)[self._convention.layer], np.float32)[: len(clips)]
    return rows if self._convention.still else rows[:, None]


class Features:
  """The features of a set by a convention, kept in a folder whose name follows from both.

  Several processes may fill it: each writes whole parts, and reads the parts of the others.
  """

  def __init__(self, clips: ClipSet, convention: Convention, root: pathlib.Path):
    """Raises UserError if the clips do not have the convention's shape."""
    if clips.shape.array != convention.clip.array:
      raise UserError(
        f"{clips.name} has clips of {clips.shape.size}: expected {convention.clip.size}, as those that they are compared with"
      )
    self._clips, self._convention = clips, convention
    self._described = dict(convention=convention.record, source=clips.identity)
    digest = hashlib.sha256(json.dumps(self._described, sort_keys=True).encode()).hexdigest()
    self.folder = root / digest[:16]

  def missing(self) -> list[range]:
    """The parts that no process has written yet."""
    return [part for part in self._parts() if self._read(part) is None]

  def fill(self, params: Callable[[], Any], *, process: int = 0, processes: int = 1) -> None:
    """Computes the missing ones among the parts process, process + processes, ...

    Args:
      params: returns I3D's parameters; only called if something is missing.

    Raises:
      UserError: a clip has another shape than the set or cannot be read, or the folder is not writable.
    """
    todo = [part for part in self._parts()[process::processes] if self._read(part) is None]
    if not todo:
      return
    numbers = [n for part in todo for n in part]
    clips = self._clips.clips(numbers)
    write_whole(self.folder / DESCRIPTION, json.dumps(formats.stamped(self._described | dict(name=self._clips.name)), indent=1) + "\n")
    run = Extractor(self._convention, params())
    with Progress(total=len(numbers), unit="clip", name=f"features of {self._clips.name}") as progress:
      done = 0
      for part in todo:
        made = np.concatenate(list(self._made(run, clips, part)))
        with whole_file(self._path(part)) as temporary, open(temporary, "wb") as file:
          np.save(file, made)
        done += len(part)
        progress.update(done)

  def read(self) -> np.ndarray:
    """The features [count, samples, D] float32.

    Raises:
      UserError: a part is missing or damaged.
    """
    found = []
    for part in self._parts():
      rows = self._read(part)
      if rows is None:
        raise UserError(f"{self._path(part)} is missing: expected the features of clips {part.start} to {part.stop - 1}")
      found.append(rows)
    return np.concatenate(found)

  def _parts(self) -> list[range]:
    count = self._clips.count
    return [range(start, min(start + PART, count)) for start in range(0, count, PART)]

  def _path(self, part: range) -> pathlib.Path:
    return self.folder / f"{part.start:07}.npy"

  def _read(self, part: range) -> np.ndarray | None:
    """Reads a part; its file may have been written for a longer or shorter set."""
    path = self._path(part)
    if not path.is_file():
      return None
    try:
      rows = np.load(path, allow_pickle=False)
      sound = rows.dtype == np.float32 and rows.ndim == 3 and rows.shape[1] == self._convention.samples and np.isfinite(rows).all()
    except (ValueError, EOFError, OSError) as error:
      raise UserError(f"{path} is damaged: {first_line(error)}: delete it, and its features are made again") from None
    if not sound:
      raise UserError(f"{path} is damaged: {rows.dtype} {list(rows.shape)}: delete it, and its features are made again")
    return rows[: len(part)] if len(rows) >= len(part) else None

  def _made(self, run: Extractor, clips: Iterator[np.ndarray], part: range) -> Iterator[np.ndarray]:
    """Computes the features of the next clips, batch by batch."""
    want = self._convention.clip.array
    for start in range(0, len(part), run.batch):
      some = []
      for number in part[start : start + run.batch]:
        clip = next(clips)
        if clip.shape != want:
          size = "x".join(map(str, clip.shape[:3]))
          raise UserError(f"clip {number} of {self._clips.name} is {size}: expected {self._convention.clip.size}, as the others")
        some.append(clip)
      yield run(some)
