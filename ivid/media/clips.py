"""Clips in and out: mp4, webm, gif and png by suffix. Sizes are never changed and colours are tagged."""

from __future__ import annotations

import difflib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from ivid.media import decode, gif, pictures, videos
from ivid.media.files import to_comment, whole_file
from ivid.media.picture import Picture
from ivid.spec.errors import UserError
from ivid.spec.paths import check_file

Writer = Callable[..., None]
WRITERS: dict[str, Writer] = {
  ".mp4": videos.write_mp4,
  ".webm": videos.write_webm,
  ".gif": gif.write,
  ".png": pictures.write_grid,
}


def write_clip(
  path: str | os.PathLike[str], clip: np.ndarray, fps: float | Fraction, *, metadata: dict | None = None, crf: int | None = None
) -> None:
  """Writes `clip` uint8 [T, H, W, 3], RGB; the file appears whole or not at all, with `metadata` as JSON in its comment.

  .mp4 is H.264 and .webm VP9, both 4:2:0, for which sides must be even; `crf` is their quality (lower is better; None: one fit for the
  picture's size). .gif has 256 colours per frame and times in whole hundredths of a second. .png is one lossless picture with all frames.

  Raises:
    UserError: the suffix is unknown, the array is wrong, the format needs even sides, rate or crf is out of range, or writing fails.
  """
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in WRITERS:
    raise UserError(f"cannot write {path}: unknown suffix {suffix!r}, {_nearest(suffix)}")
  clip = np.asarray(clip)
  if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
    raise UserError(f"cannot write {path}: clip is {clip.dtype} {list(clip.shape)}, expected uint8 [T, H, W, 3] (see to_uint8)")
  rate = _rate(fps)
  if rate is None:
    raise UserError(f"cannot write {path}: fps={fps}, expected a positive number")
  comment = to_comment(metadata)
  with whole_file(path) as temporary:
    WRITERS[suffix](temporary, clip, rate, comment=comment, crf=crf)


def read_clip(path: str | os.PathLike[str], *, max_frames: int | None = None) -> tuple[np.ndarray, Fraction]:
  """Frames uint8 [T, H, W, 3] and frames per second of any clip FFmpeg reads, or of a .png that `write_clip` made.

  Raises:
    UserError: there is no such file, it holds no clip, or the clip is too large for memory.
  """
  _check_clip(path)
  return decode.read(path, max_frames)


class ClipFile:
  """A clip in a file that behaves like an array uint8 [T, H, W, 3], of which only the requested frames are in memory.

  The frames are counted when it is opened. Each access reads the file in one pass.
  """

  dtype, ndim = np.dtype(np.uint8), 4

  def __init__(self, path: str | os.PathLike[str]):
    """Raises UserError as read_clip."""
    _check_clip(path)
    self._path = path
    shown = decode.pictures(path)
    first = next(shown)
    self.shape = (1 + sum(1 for _ in shown), first.height, first.width, 3)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, frames: int | Sequence[int]) -> np.ndarray:
    """A frame [H, W, 3], or frames [n, H, W, 3] for rising indices."""
    wanted = np.atleast_1d(frames)
    made = np.empty((len(wanted), *self.shape[1:]), np.uint8)
    for n, picture in enumerate(itertools.islice(decode.pictures(self._path), int(wanted.max()) + 1)):
      if n in wanted:
        same = (picture.height, picture.width) == self.shape[1:3]
        made[wanted == n] = picture.pixels if same else picture.fitted(*self.shape[1:3])
    return made[0] if np.ndim(frames) == 0 else made


def timed_pictures(path: str | os.PathLike[str]) -> Iterator[Picture]:
  """Pictures, with their times, of what `read_clip` reads, or of a still.

  Raises:
    UserError: there is no such file, it is empty, or it has no pictures.
  """
  file = check_file(path, "clip")
  if not file.stat().st_size:
    raise UserError(f"{path} is empty: expected a clip")
  yield from decode.pictures(path)


def _check_clip(path: str | os.PathLike[str]) -> None:
  """Raises UserError if there is no file, or it is a PNG but not a clip."""
  check_file(path, "clip")
  if pathlib.Path(path).suffix.lower() == ".png" and not pictures.is_grid(path):
    raise UserError(f"{path} is a picture, not a clip: expected a .png that ivid wrote, or .mp4, .webm, .gif")


def read_metadata(path: str | os.PathLike[str]) -> dict | None:
  """The metadata that `write_clip` or `write_png` wrote; None if the file has none.

  Raises:
    UserError: no such file, or no clip in it.
  """
  check_file(path, "clip")
  reader = {".png": pictures.read_comment, ".gif": pictures.read_comment}.get(pathlib.Path(path).suffix.lower(), videos.read_comment)
  return reader(path)


def to_uint8(x: np.ndarray) -> np.ndarray:
  """Floats [..., H, W, C] in [-1, 1] (clipped) as bytes, rounded: -1 is 0 and 1 is 255."""
  x = np.asarray(x)
  made = np.empty(x.shape, np.uint8)
  for place in np.ndindex(x.shape[:-3]):  # one picture at a time, because copies of a long clip would take several times its memory
    made[place] = np.round((np.clip(x[place].astype(np.float32), -1, 1) + 1) * 127.5)
  return made


def from_uint8(clip: np.ndarray) -> np.ndarray:
  """Bytes as float32 in [-1, 1]."""
  return np.asarray(clip, np.float32) / 127.5 - 1


def _rate(fps: float | Fraction) -> Fraction | None:
  """The rate as a fraction: exact for a Fraction of usual terms, else the nearest with small terms. None: it is not a rate."""
  if not 0 < fps <= pictures.RATE_TERM:  # also NaN
    return None
  exact = Fraction(fps)
  if isinstance(fps, Fraction) and max(exact.as_integer_ratio()) <= pictures.RATE_TERM:
    return exact
  return exact.limit_denominator(decode.MAX_DENOMINATOR) or None


def _nearest(suffix: str) -> str:
  close = difflib.get_close_matches(suffix, WRITERS, n=1, cutoff=0.5)
  listing = "expected one of " + ", ".join(WRITERS)
  return f"did you mean {close[0]!r}? ({listing})" if close else listing
