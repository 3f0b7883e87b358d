"""Measures super-resolution stages: ground truth is shrunk, enlarged by the stages and by interpolation, and compared with both."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ivid.evaluate.over_time import DRIFT, MEAN, colour_shift, warping_errors
from ivid.evaluate.shares import Kept
from ivid.media.clips import from_uint8, to_uint8
from ivid.media.files import write_whole
from ivid.media.pictures import write_png
from ivid.media.sheet import contact_sheet, even_frames
from ivid.moving_shapes.grammar import Attributes
from ivid.moving_shapes.observer import ATTRIBUTES, observe, score
from ivid.moving_shapes.scene import Scene
from ivid.spec import formats
from ivid.spec.stage import StageSpec
from ivid.video.lowres import shrink

RESULTS, SHEET = "upsampling.json", "upsampling.png"
STAGE, BILINEAR, BICUBIC, REAL = "stage", "bilinear", "bicubic", "ground truth"
COLUMNS = 6
SHEET_HEIGHT = 96
KERNELS = {BILINEAR: Image.Resampling.BILINEAR, BICUBIC: Image.Resampling.BICUBIC}


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A clip at one stage's output: PSNR in dB for each method of enlarging, and the adherence of each and of the ground truth.

  Attributes:
    still: mean absolute difference between consecutive frames, in 1/255, where the ground truth's pixel is the same in both.
    colour: for each method, how far colours are from the input's and drift (ivid.evaluate.over_time.colour_shift), in 1/255.
    warp: for each method, the warping error along the exact flow (ivid.evaluate.over_time.warping_errors), in 1/255; None without a scene.
    right: for each method, attribute: bool; None if the clip's attributes are unknown.
    frames: a few small frames for each method, for the sheet.
  """

  stage: str
  psnr: dict[str, float]
  still: float | None
  colour: dict[str, dict[str, float]]
  warp: dict[str, float] | None
  right: dict[str, dict[str, bool]] | None
  frames: dict[str, np.ndarray]


def compare(
  stage: str,
  made: np.ndarray,
  real: np.ndarray,
  small: np.ndarray,
  said: Attributes | None,
  scene: Scene | None = None,
  *,
  fps: float = 0.0,
) -> Comparison:
  """Clips uint8: `made` [T, H, W, 3], `real` of up to T frames, and `small` [t, h, w, 3], from which interpolation starts; t divides T.

  Args:
    scene, fps: the scene from which `real` was drawn, and frames per second; None: the flow is unknown.
  """
  _, height, width, _ = real.shape
  ways = {STAGE: made} | {name: interpolated(small, len(made), height, width, name) for name in (BILINEAR, BICUBIC)}
  ways = {name: clip[: len(real)] for name, clip in ways.items()}
  psnrs = {name: psnr(clip, real) for name, clip in ways.items()}
  del ways[BICUBIC]
  ways[REAL] = real
  every = len(made) // len(small)
  colour = {way: colour_shift(clip[::every], small[: -(-len(clip) // every)]) for way, clip in ways.items()}
  warp = None if scene is None else warping_errors(ways, scene, fps=fps)
  right: Any = None if said is None else {name: score(observe(clip), said) for name, clip in ways.items()}
  frames = {name: _thumbnails(clip) for name, clip in ways.items()}
  return Comparison(stage, psnrs, still_difference(ways[STAGE], real), colour, warp, right, frames)


def keep(comparisons: Sequence[Comparison]) -> Kept:
  """A clip's comparisons, as ivid.evaluate.shares keeps them."""
  fields = ("stage", "psnr", "still", "colour", "warp", "right")
  records = [{name: getattr(c, name) for name in fields} | dict(ways=list(c.frames)) for c in comparisons]
  arrays = {f"{n}/{way}": frames for n, c in enumerate(comparisons) for way, frames in c.frames.items()}
  return dict(comparisons=records), arrays


def restore(kept: Kept) -> list[Comparison]:
  """The comparisons that `keep` was given."""
  found, (record, arrays) = [], kept
  for n, fields in enumerate(record["comparisons"]):
    ways = fields.pop("ways")
    found.append(Comparison(**fields, frames={way: arrays[f"{n}/{way}"] for way in ways}))
  return found


def psnr(clip: np.ndarray, real: np.ndarray) -> float:
  """Peak signal-to-noise ratio of two uint8 clips in dB over all their values; infinite if they are equal."""
  total = sum(float(np.square(a.astype(np.float32) - b).sum(dtype=np.float64)) for a, b in zip(clip, real, strict=True))
  return float("inf") if total == 0 else float(10 * np.log10(255.0**2 * real.size / total))


def pooled(values: Sequence[float]) -> float:
  """PSNR in dB of clips of one size taken together, from the mean of their squared errors, so that difficult clips count more."""
  mean = float(np.mean([10 ** (-value / 10) for value in values]))
  return float("inf") if mean == 0 else float(-10 * np.log10(mean))


def interpolated(small: np.ndarray, frames: int, height: int, width: int, kernel: str) -> np.ndarray:
  """uint8 [t, h, w, 3] at frames x height x width: linear between frames (the last one stays), `kernel` of KERNELS in space."""
  k = frames // len(small)
  large = np.empty((frames, height, width, 3), np.uint8)
  for n in range(frames):
    a, b = small[n // k].astype(np.float32), small[min(n // k + 1, len(small) - 1)]
    share = n % k / k
    picture = a + share * (b - a)
    channels = [Image.fromarray(picture[..., c]).resize((width, height), KERNELS[kernel]) for c in range(3)]
    large[n] = np.clip(np.stack([np.asarray(c) for c in channels], axis=-1), 0, 255) + 0.5
  return large


def still_difference(made: np.ndarray, real: np.ndarray) -> float | None:
  """Mean absolute difference of consecutive frames of `made`, in 1/255, over pixels that do not change in `real`; None if all change."""
  total = count = 0
  for n in range(len(real) - 1):
    still = (real[n] == real[n + 1]).all(-1)
    total += int(np.abs(made[n].astype(np.int16) - made[n + 1])[still].sum())
    count += 3 * int(still.sum())
  return total / count if count else None


def summarize(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
  """A row per stage: clips, `still`, and for each method mean and pooled PSNR, `colour`, `warp` and the share of clips that are right."""
  rows = []
  for stage in dict.fromkeys(c.stage for c in comparisons):
    mine = [c for c in comparisons if c.stage == stage]
    row: dict[str, Any] = {"stage": stage, "clips": len(mine)}
    row["psnr"] = {way: float(np.mean([c.psnr[way] for c in mine])) for way in mine[0].psnr}
    row["psnr_pooled"] = {way: pooled([c.psnr[way] for c in mine]) for way in mine[0].psnr}
    row["better_than_bilinear"] = sum(c.psnr[STAGE] > c.psnr[BILINEAR] for c in mine)
    stills = [c.still for c in mine if c.still is not None]
    row["still"] = float(np.mean(stills)) if stills else None
    row["colour"] = {way: {name: float(np.mean([c.colour[way][name] for c in mine])) for name in of} for way, of in mine[0].colour.items()}
    if mine[0].warp is not None:
      row["warp"] = {way: float(np.mean([c.warp[way] for c in mine])) for way in mine[0].warp}
    if mine[0].right is not None:
      names = (*ATTRIBUTES, "all")
      row["right"] = {way: {name: float(np.mean([c.right[way][name] for c in mine])) for name in names} for way in mine[0].right}
    rows.append(row)
  return rows


def write_report(folder: pathlib.Path, comparisons: Sequence[Comparison], made_by: dict[str, Any]) -> list[dict[str, Any]]:
  """Writes RESULTS and SHEET (the last stage's first clips) into the folder and returns the rows of `summarize`."""
  rows = summarize(comparisons)
  write_whole(folder / RESULTS, json.dumps(formats.stamped({"made_by": made_by, "stages": rows}), indent=1) + "\n")
  cells, captions = [], []
  for n, comparison in enumerate([c for c in comparisons if c.stage == comparisons[-1].stage][:4]):
    for way, frames in comparison.frames.items():
      cells.append(frames)
      captions.append(f"clip {n}: {way}" + (f", {comparison.psnr[way]:.1f} dB" if way in comparison.psnr else ""))
  write_png(folder / SHEET, contact_sheet(cells, captions=captions, columns=COLUMNS, header=f"stage {comparisons[-1].stage}"))
  return rows


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
  """The rows as a table: PSNR in dB, mean of clips and pooled, flicker, colours, warping error, then the share of clips that show all."""
  names = f"{'stage':6} {'clips':>5} {'stage dB':>9} {'bilinear':>9} {'bicubic':>9} {'pooled dB':>9} {'bilinear':>9} {'still/255':>9}"
  names += f" {'colour':>7} {'drift':>7} {'(real':>7} {'drift)':>7}"
  names += f" {'warp/255':>8} {'bilinear':>8} {'(real)':>6}"
  lines = [f"{names}   all attributes right: stage, bilinear, real"]
  for row in rows:
    db, together = row["psnr"], row["psnr_pooled"]
    figures = (
      db[STAGE],
      db[BILINEAR],
      db[BICUBIC],
      together[STAGE],
      together[BILINEAR],
      math.nan if row["still"] is None else row["still"],
    )
    line = f"{row['stage']:6} {row['clips']:>5} " + " ".join(f"{figure:>9.2f}" for figure in figures)
    line += "".join(f" {row['colour'][way][name]:>7.2f}" for way in (STAGE, REAL) for name in (MEAN, MEAN + DRIFT))
    line += "".join(f" {row.get('warp', {}).get(way, math.nan):>{wide}.2f}" for way, wide in ((STAGE, 8), (BILINEAR, 8), (REAL, 6)))
    if "right" in row:
      line += "   " + ", ".join(f"{row['right'][way]['all']:.2f}" for way in (STAGE, BILINEAR, REAL))
    lines.append(line)
  return "\n".join(lines)


def shrunk(real: np.ndarray, spec: StageSpec) -> np.ndarray:
  """The input [t, h, w, 3] uint8 that the stage would have in training for the clip `real` at its output."""
  return to_uint8(shrink(from_uint8(real)[None], spec.lowres, spec.output)[0])  # pyright: ignore[reportArgumentType]  only stages with a low-resolution clip come here


def _thumbnails(clip: np.ndarray) -> np.ndarray:
  step = max(1, clip.shape[1] // SHEET_HEIGHT)
  return clip[even_frames(len(clip), COLUMNS)][:, ::step, ::step].copy()
