"""Measures how often the adherence evaluator is right, on drawn clips or single images whose scenes are known.

python -m ivid.evaluate.calibrate ROWS SCENES [--images] [--seed=0] [--degrade]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ivid.data.sources import moment
from ivid.moving_shapes import grammar
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.grammar import BACKGROUNDS, COLOURS, FIRST_LETTER, LARGE, MOTIONS, SHAPES, SIZES, Attributes, Object
from ivid.moving_shapes.image_observer import observe_image
from ivid.moving_shapes.observer import ATTRIBUTES, IMAGE_ATTRIBUTES, Observation, observe, score
from ivid.moving_shapes.scene import CLIP_SECONDS, Scene, attributes, make_scene

STREAM = 101  # a stream of scenes that nothing else uses
ASPECT = 5 / 3
FRAMES = 16
BLUR = 0.7  # pixels: what a half-trained stage does to a clip
NOISE = 0.05  # of the range [-1, 1]
CHANGES = ("colour", "shape", "size", "motion", "background", "count")
TRIES = 1000


def make_clip(scene: Scene, rows: int, frames: int = FRAMES) -> np.ndarray:
  """The scene as a clip uint8 [T, rows, W, 3] of CLIP_SECONDS."""
  times = np.arange(frames) * (CLIP_SECONDS / frames)
  return rounded(draw(scene, times=times, height=rows, width=round(rows * ASPECT)))


def make_image(scene: Scene, rows: int, rng: np.random.Generator) -> np.ndarray:
  """A moment of the scene, as training draws one, as a picture uint8 [rows, W, 3]."""
  return rounded(draw(scene, times=np.array([moment(scene, rng)]), height=rows, width=round(rows * ASPECT)))[0]


def degrade(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The clip (or picture) blurred within frames (Gaussian, BLUR pixels) and with normal noise of NOISE added."""
  soft = ndimage.gaussian_filter(clip.astype(np.float32), (0, BLUR, BLUR, 0)[-clip.ndim :])
  return np.clip(soft + 127.5 * NOISE * rng.standard_normal(clip.shape, np.float32) + 0.5, 0, 255).astype(np.uint8)


def change_one(said: Attributes, rng: np.random.Generator, letters: bool = True, motion: bool = True) -> tuple[str, Attributes]:
  """Draws one attribute (of one object) anew, with another value. Returns the attribute's name and the changed prompt.

  Without `letters`, a letter never becomes another letter; without `motion`, none changes. "count" takes the second object away, or adds
  one.
  """
  found = change_any(said, rng, [name for name in CHANGES if motion or name != "motion"], letters)
  assert found is not None, "no attribute can be changed"
  return found


def change_any(
  said: Attributes, rng: np.random.Generator, changes: Sequence[str] = CHANGES, letters: bool = True
) -> tuple[str, Attributes] | None:
  """As change_one, for one of these `changes`; None if none is possible, such as another size of a letter."""
  for _ in range(TRIES):
    name = changes[int(rng.integers(len(changes)))]
    objects, behind = list(said.objects), said.background
    k = int(rng.integers(len(objects)))
    if name == "background":
      behind = _another(behind, len(BACKGROUNDS), rng)
    elif name == "count":
      if len(objects) == 2:
        del objects[k]
      else:
        objects += grammar.sample_attributes(rng, False).objects
    else:
      field = {"colour": len(COLOURS), "shape": len(SHAPES), "size": len(SIZES), "motion": len(MOTIONS)}[name]
      values = {f: getattr(objects[k], f) for f in ("size", "colour", "shape", "motion")}
      objects[k] = Object(**(values | {name: _another(values[name], field, rng)}))
      if not letters and min(objects[k].shape, said.objects[k].shape) >= FIRST_LETTER and name == "shape":
        continue
    if _possible(objects):
      return name, Attributes(tuple(objects), behind)
  return None


def _another(value: int, count: int, rng: np.random.Generator) -> int:
  return int((value + rng.integers(1, count)) % count)


def _possible(objects: list[Object]) -> bool:
  distinct = len(objects) == 1 or (objects[0].colour != objects[1].colour and objects[0].shape != objects[1].shape)
  return distinct and all(item.valid and (item.shape < FIRST_LETTER or item.size == LARGE) for item in objects)


def judged(rows: int, scenes: int, seed: int = 0, degraded: bool = False, two_objects: bool | None = None, images: bool = False):
  """Yields (index, what was asked, what was seen, score) of each scene; see `measure`."""
  for index in range(scenes):
    two = index % 2 == 1 if two_objects is None else two_objects
    scene = make_scene(seed, index, two_objects=two, stream=STREAM)
    shown = make_image(scene, rows, np.random.default_rng([seed, index, 2])) if images else make_clip(scene, rows)
    if degraded:
      shown = degrade(shown, np.random.default_rng([seed, index]))
    seen = _look(shown)
    yield index, attributes(scene), seen, score(seen, attributes(scene))


def measure(
  rows: int, scenes: int, seed: int = 0, degraded: bool = False, two_objects: bool | None = None, images: bool = False, report=None
) -> dict[str, float]:
  """Shares of drawn clips on which each attribute, and all, is found right; "caught": changed prompts reported wrong.

  Args:
    rows: of the clips, 5/3 as wide, 16 frames.
    degraded: blurred and noisy, as a half-trained stage draws.
    two_objects: None draws one and two objects in turn.
    images: single images instead of clips, of every motion, and prompts without it.
    report: called with (index, asked, seen, score) if something is wrong.
  """
  right = {name: 0 for name in (*(IMAGE_ATTRIBUTES if images else ATTRIBUTES), "all", "caught")}
  for index, said, seen, scored in judged(rows, scenes, seed, degraded, two_objects, images):
    _, changed = change_one(said, np.random.default_rng([seed, index, 1]), seen.letters, motion=not images)
    for name in right:
      right[name] += not score(seen, changed)["all"] if name == "caught" else scored[name]  # pyright: ignore[reportOperatorIssue]  every attribute is scored here
    if report and not scored["all"]:
      report(index, said, seen, scored)
  return {name: count / max(scenes, 1) for name, count in right.items()}


def _look(shown: np.ndarray) -> Observation:
  return observe_image(shown) if shown.ndim == 3 else observe(shown)


def _print(index: int, said: Attributes, seen: Observation, scored: dict[str, bool | None]):
  wrong = ",".join(name for name in ATTRIBUTES if not scored.get(name, True))
  errors = " ".join(f"{item.error:.3f}/{item.diameter:.2f}" for item in seen.objects)
  print(f"{index} {wrong}: {grammar.caption(said.objects, said.background)}\n    saw {seen.text} [{errors}]", file=sys.stderr)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("rows", type=int)
  parser.add_argument("scenes", type=int)
  parser.add_argument("--images", action="store_true")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--degrade", action="store_true")
  args = parser.parse_args()
  print(json.dumps(measure(args.rows, args.scenes, args.seed, args.degrade, images=args.images, report=_print)))


if __name__ == "__main__":
  main()
