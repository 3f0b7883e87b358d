"""Clips of other lengths than those that a cascade was trained for.

The base continues its own output: it samples windows of the length that it knows, and each window is given the second half of the previous
one. This is one of the patterns on which a base with unet.given is trained. Super-resolution stages that mix frames only by convolution
take any length. Those that attend over frames blend overlapping windows in every step (ivid.sample.tiling.blended).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ivid.media.clips import from_uint8, to_uint8
from ivid.sample import plan
from ivid.sample.given import Given
from ivid.sample.resampling import count_turns
from ivid.sample.stage_sampler import sample_stage
from ivid.sample.streaming import is_streamed, stream_stage
from ivid.sample.tiling import Tiling, blended, stage_tiling
from ivid.spec.errors import UserError, shown
from ivid.spec.limits import MOST_FRAMES
from ivid.spec.sampling import ThresholdKind
from ivid.spec.stage import StageSpec
from ivid.stage import Stage
from ivid.weights.cascades import CascadeFolder

_WINDOW = 4  # name of the stream of the windows' keys; ivid.sample.stage_sampler has the other names


def lengthen(stages: Sequence[StageSpec], seconds: float | str | None) -> tuple[tuple[StageSpec, ...], tuple[str, ...]]:
  """The stages for a clip of about `seconds`, and what to tell the user about it; None or "": the length that the base was trained for.

  Raises:
    UserError: `seconds` is not a number, is less than a frame or needs too much memory; or the first stage is not a base.
  """
  if seconds is None or seconds == "":
    return tuple(stages), ()
  base = stages[0]
  if base.lowres is not None:
    raise UserError(f"--seconds={seconds}: stage {base.name} makes a clip as long as its --input; expected the base as the first stage")
  try:
    value = math.nan if isinstance(seconds, bool) else float(seconds)
  except (TypeError, ValueError):
    value = math.nan
  if not math.isfinite(value):
    raise UserError(f"--seconds={shown(seconds) if not isinstance(seconds, str) else seconds}: expected a number of seconds such as 20")
  fps, trained = base.output.fps, base.output.frames
  longest = min(plan.longest_seconds(stages), MOST_FRAMES / max(spec.output.fps for spec in stages))
  if value > longest:
    raise UserError(
      f"--seconds={value:g}: there is room for {longest:.4g} s: expected less, or a --stop_stage before {stages[-1].name}"
      if len(stages) > 1
      else f"--seconds={value:g}: there is room for {longest:.4g} s: expected less"
    )
  if value * fps < 1 - 1e-6:
    raise UserError(f"--seconds={value:g} is less than a frame of stage {base.name}: expected {1 / fps:.4g} or more")
  frames = round(value * fps)
  if frames > trained and trained < 2:
    raise UserError(f"--seconds={value:g}: stage {base.name} makes single pictures, which nothing goes on from: expected {1 / fps:.4g}")
  planned = to_length(stages, frames)
  if abs(frames / fps - value) < 1e-6:
    return planned, ()
  return planned, (f"--seconds={value:g}: made {frames / fps:.4g}, {frames} frames of stage {base.name} at {fps:g} a second",)


def to_length(stages: Sequence[StageSpec], frames: int) -> tuple[StageSpec, ...]:
  """The stages for so many frames of the base. Raises UserError for a stage that only knows longer clips."""
  base = dataclasses.replace(stages[0], output=dataclasses.replace(stages[0].output, frames=frames))
  return (base, *plan.plan_length(stages[1:], frames))


def known_length(cascade: CascadeFolder, spec: StageSpec) -> StageSpec:
  """The stage at the length that it was trained for, whatever its length is now."""
  frames = cascade.spec.stage(spec.name).output.frames
  small = spec.lowres and dataclasses.replace(spec.lowres, input=dataclasses.replace(spec.lowres.input, frames=frames // spec.time_factor))
  return dataclasses.replace(spec, output=dataclasses.replace(spec.output, frames=frames), lowres=small)


def at_once(cascade: CascadeFolder, spec: StageSpec) -> StageSpec:
  """The stage for as many frames as sample_stage takes: one window for a base, the whole clip for the others."""
  return known_length(cascade, spec) if spec.lowres is None else spec


def cut_stage(cascade: CascadeFolder, spec: StageSpec, tile: Sequence[int] = (), *, clips: int = 1, cut: bool = False) -> Tiling:
  """Tiles as of stage_tiling, except that a stage which attends over frames cuts longer clips into windows of the length that it knows.

  Raises:
    UserError: as stage_tiling; or a tile has other frames than those windows.
  """
  known = known_length(cascade, spec)
  if spec.lowres is None or spec.unet.frame_local or spec.output.frames <= known.output.frames:
    return stage_tiling(at_once(cascade, spec), tile, clips=clips, cut=cut)
  if tile and tile[0] not in (0, known.output.frames):
    raise UserError(f"tile frames={tile[0]}: stage {spec.name} attends over {known.output.frames} frames: expected 0, which takes as many")
  if cut:
    frames = f"{known.output.frames} frames, and this clip has {spec.output.frames}"
    raise UserError(f"a mesh cuts whole clips, but stage {spec.name} attends over {frames}: expected a mesh without frames and height")
  if spec.sampling.threshold is ThresholdKind.DYNAMIC:
    raise UserError(f"stage {spec.name}: a dynamic threshold looks at the whole clip: expected threshold=static for a longer one")
  return blended(stage_tiling(known, (0, *tile[1:]) if tile else (), clips=clips), spec)


class Window(NamedTuple):
  """A window that a base samples: its number, its first frame, and which of its frames are known, [T]."""

  number: int
  start: int
  known: np.ndarray


def windows(frames: int, length: int, given: np.ndarray) -> list[Window]:
  """The windows with which a base of `length` frames makes a clip of `frames`, without windows in which everything is given.

  They start half a window apart. The last may reach beyond the clip; the surplus is dropped.

  Args:
    given: [frames] bool, frames that are known from the start.
  """
  hop = max(1, length - length // 2)
  count = 1 + max(0, -(-(frames - length) // hop))
  known = np.zeros((count - 1) * hop + length, bool)
  known[:frames] = given
  found = []
  for number in range(count):
    here = known[number * hop :][:length]
    if not here[: frames - number * hop].all():
      found.append(Window(number, number * hop, here.copy()))
    here[:] = True
  return found


def count_steps(cascade: CascadeFolder, spec: StageSpec, given: Given | None) -> int:
  """Steps that one batch takes in a stage, over all windows of a base and including repeated steps."""
  steps = spec.sampling.steps
  if spec.lowres is not None or given is None:
    return steps
  found = windows(spec.output.frames, known_length(cascade, spec).output.frames, given.mask)
  return sum(count_turns(steps, given.record.resamplings if window.known.any() else 1) for window in found)


def window_keys(keys: jax.Array, number: int) -> jax.Array:
  """The samples' keys [B] in a window. The first window has the same keys as a clip of one window."""
  if not number:
    return keys
  return jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, _WINDOW), number))(keys)


def sample_length(
  stage: Stage,
  params: Any,
  *,
  keys: jax.Array,
  frames: int,
  small: Sequence[np.ndarray] | None = None,
  given: Given | None = None,
  **options: Any,
) -> np.ndarray:
  """Clips [B, frames, H, W, 3] uint8 of a stage; a base is sampled window by window.

  What one window continues is rounded to bytes, so that continuing a stored clip later gives the same result as continuing at once.

  Args:
    stage: with as many frames as sample_stage takes (`at_once`).
    frames: of the clip; a base needs `given` for other lengths than its own.
    small: B clips [t, h, w, 3] uint8 at the stage's input size; None in the base.
    options: as of sample_stage.
  """
  if stage.spec.lowres is not None:
    if is_streamed(stage.spec, options["tiling"]):
      return stream_stage(stage, params, keys=keys, small=small, **options)  # pyright: ignore[reportArgumentType]  a stage with `lowres` has a small clip
    return to_uint8(sample_stage(stage, params, keys=keys, small=from_uint8(np.stack(small)), **options))  # pyright: ignore[reportArgumentType, reportCallIssue]  a stage with `lowres` has a small clip
  if given is None:
    return to_uint8(sample_stage(stage, params, keys=keys, **options))
  length, rows = stage.spec.output.frames, len(keys)
  found = windows(frames, length, given.mask)
  clips = np.zeros((rows, max(frames, found[-1].start + length), *stage.spec.output.array[1:]), np.uint8)
  clips[:, :frames] = given.frames
  for window in found:
    here = clips[:, window.start : window.start + length]
    known = (from_uint8(here), np.broadcast_to(window.known, here.shape[:2])) if window.known.any() else None
    told: dict[str, Any] = dict(given=known, resamplings=given.record.resamplings)
    here[:] = to_uint8(sample_stage(stage, params, keys=window_keys(keys, window.number), **told, **options))
  return clips[:, :frames]
