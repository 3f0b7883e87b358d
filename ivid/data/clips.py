"""A user's clips for training: found with their captions, cut in time, cropped to the aspect and resized."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np

from ivid.media.clips import read_clip
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.stage import Filter
from ivid.video.resize import resize

SUFFIXES = (".mp4", ".webm", ".gif", ".mov", ".mkv", ".avi", ".m4v")


def clip_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Clips of `folder` and below, by name.

  Raises:
    UserError: no such folder, or no clips in it.
  """
  if not folder.is_dir():
    raise UserError(f"{folder} is no folder: expected one of clips ({', '.join(SUFFIXES)})")
  found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
  if not found:
    raise UserError(f"{folder} holds no clips: expected files ending in {', '.join(SUFFIXES)}")
  return found


def captioned_files(folder: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
  """`clip_files`, each with the text of the .txt file beside it.

  Raises:
    UserError: no such folder, no clips, or a clip without a caption.
  """
  found = clip_files(folder)
  pairs = []
  for path in found:
    text = path.with_suffix(".txt")
    if not text.is_file():
      raise UserError(f"{path} has no caption: expected {text}")
    pairs.append((path, " ".join(text.read_text(encoding="utf-8").split())))
  return pairs


def pieces(path: pathlib.Path, shape: ClipShape) -> Iterator[np.ndarray]:
  """The clip's consecutive pieces of shape.seconds, each uint8 [T, H, W, 3] of `shape`; a shorter rest is left out.

  Raises:
    UserError: the clip is shorter than one piece.
  """
  frames, rate = read_clip(path)
  count = int((len(frames) / float(rate)) / shape.seconds + 1e-6)
  if not count:
    raise UserError(f"{path} lasts {len(frames) / float(rate):.3g} s: expected at least the {shape.seconds:.3g} s of {shape}")
  for piece in range(count):
    seconds = piece * shape.seconds + np.arange(shape.frames) / shape.fps
    picked = np.minimum((seconds * float(rate) + 1e-6).astype(int), len(frames) - 1)
    yield cut_and_resize(frames[picked], shape.height, shape.width)


def cut_and_resize(clip: np.ndarray, height: int, width: int, aspect: float = 0.0) -> np.ndarray:
  """`clip` uint8 [T, H, W, 3] cut about its middle to `aspect` (width over height; 0: that of width and height), and resized."""
  _, H, W, _ = clip.shape
  h, w = cut_size(H, W, aspect or width / height)
  top, left = (H - h) // 2, (W - w) // 2
  return resized(clip[:, top : top + h, left : left + w], height, width)


def cut_size(height: int, width: int, aspect: float) -> tuple[int, int]:
  """Height and width of the largest part of a picture that has the aspect, to whole pixels."""
  return min(height, max(1, round(width / aspect))), min(width, max(1, round(height * aspect)))


def resized(clip: np.ndarray, height: int, width: int) -> np.ndarray:
  """uint8 [T, H, W, 3] at height x width: means over boxes where it shrinks by whole factors, bilinear (antialiased) otherwise."""
  _, H, W, _ = clip.shape
  if (H, W) == (height, width):
    return clip
  kernel = Filter.BOX if H % height == 0 and W % width == 0 else Filter.TRIANGLE
  return (np.clip(resize(clip, height, width, kernel), 0, 255) + 0.5).astype(np.uint8)
