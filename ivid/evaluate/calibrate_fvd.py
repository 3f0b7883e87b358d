"""Measures how FVD grows as drawn clips are distorted more and more (as in section 4 of 1812.01717).

python -m ivid.evaluate.calibrate_fvd CLIPS --out=DIR [--features=DIR] [--seed=0]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from ivid.evaluate import i3d
from ivid.evaluate.clip_sets import MOVING_SHAPES, real_clips
from ivid.evaluate.features import ClipSet, Convention, Features
from ivid.evaluate.frechet import Moments, frechet
from ivid.media.files import write_whole
from ivid.media.plot import plot_curves
from ivid.spec import formats
from ivid.spec.clip import ClipShape

NOISE, BLUR, SHUFFLED, SWAPPED = "noise", "blur", "shuffled frames", "swapped halves"
# Deviation as a share of the range; deviation in pixels; share of the frames; share of the clips.
LEVELS = {NOISE: (0.02, 0.05, 0.1), BLUR: (0.5, 1.0, 2.0), SHUFFLED: (0.25, 0.5, 1.0), SWAPPED: (0.25, 0.5, 1.0)}
SHAPE = ClipShape(16, 24, 40, 3.0)
RESULTS, FIGURE = "calibration.json", "calibration.png"


def distorted(clip: np.ndarray, kind: str, level: float, *, number: int, seed: int = 0) -> np.ndarray:
  """A clip uint8 [T, H, W, 3], distorted by `level` of one of the kinds in LEVELS. `number`: the clip's number in its set."""
  rng = np.random.default_rng([seed, number])
  if kind == NOISE:
    return np.clip(np.round(clip + rng.normal(0, 255 * level, clip.shape)), 0, 255).astype(np.uint8)
  if kind == BLUR:
    return np.round(ndimage.gaussian_filter(clip.astype(np.float32), (0, level, level, 0), mode="nearest")).astype(np.uint8)
  order = np.arange(len(clip))
  if kind == SHUFFLED:
    chosen = rng.permutation(order)[: round(level * len(clip))]
    order[np.sort(chosen)] = chosen
  elif number * level % 1 + level >= 1:  # evenly spread over the clips
    order = np.roll(order, len(clip) // 2)
  return clip[order]


def worse(clips: ClipSet, kind: str, level: float) -> ClipSet:
  """The distorted clips of another set."""

  def made(numbers: Sequence[int]) -> Iterator[np.ndarray]:
    for number, clip in zip(numbers, clips.clips(numbers), strict=True):
      yield distorted(clip, kind, level, number=number)

  return dataclasses.replace(
    clips, name=f"{clips.name}, {kind} {level:g}", identity=dict(of=clips.identity, kind=kind, level=level), clips=made
  )


def calibrate(count: int, root: pathlib.Path, *, seed: int = 0, levels: dict[str, Sequence[float]] = LEVELS) -> dict[str, Any]:  # pyright: ignore[reportArgumentType]  nobody changes it
  """FVD between `count` drawn clips and the same clips distorted, by kind and level; between their halves; and of a half with itself.

  Args:
    root: the folder in which features are kept.
  """
  params = functools.cache(i3d.load_i3d)

  def moments(clips: ClipSet, some: slice = slice(None)) -> Moments:
    features = Features(clips, Convention(clips.shape), root)
    features.fill(params)
    return Moments.of(features.read()[some, 0])

  drawn = real_clips(MOVING_SHAPES, SHAPE, count=count, aspect=SHAPE.width / SHAPE.height, seed=seed)
  whole = moments(drawn)
  curves = {kind: {level: frechet(whole, moments(worse(drawn, kind, level))) for level in of} for kind, of in levels.items()}
  halves = frechet(moments(drawn, slice(0, None, 2)), moments(drawn, slice(1, None, 2)))
  return dict(clips=count, itself=frechet(whole, whole), halves=halves, curves=curves)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("clips", type=int)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--features", type=pathlib.Path)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  found = calibrate(args.clips, args.features or args.out / "features", seed=args.seed)
  write_whole(args.out / RESULTS, json.dumps(formats.stamped(found), indent=1) + "\n")
  curves = {kind: ([0.0, *points], [found["itself"], *points.values()]) for kind, points in found["curves"].items()}
  plot_curves(curves, args.out / FIGURE, x="level", y=f"FVD of {args.clips} clips")
  print(f"itself {found['itself']:.3g}, halves {found['halves']:.1f}")
  for kind, points in found["curves"].items():
    print(f"{kind:16} " + "  ".join(f"{level:g}: {value:.1f}" for level, value in points.items()))


if __name__ == "__main__":
  main()
