"""Tiles: windows of a clip that overlap by the network's receptive field, so that together they give the same result as the whole clip.

All windows have the same size, so one compiled program serves all of them; the last one along each axis is shifted inwards. Only the core
of each window is kept: the part that lies at least one halo away from those borders that are not borders of the clip. Together, the cores
cover the clip exactly once.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from ivid.nets.unet import frame_halo, pixel_halo
from ivid.spec.errors import UserError
from ivid.spec.sampling import ThresholdKind
from ivid.spec.stage import StageSpec

AXES = ("frames", "height", "width")
Cut = tuple[tuple[int, int], tuple[int, int]]  # window and core along one axis
AUTO_PIXELS = 32 * 768 * 1280  # of the automatic window; nano's ssr3 needs about 2.3 GB for it


@dataclasses.dataclass(frozen=True)
class Tile:
  """A window and its core: (start, stop) in frames, rows and columns of the clip."""

  window: tuple[tuple[int, int], ...]
  core: tuple[tuple[int, int], ...]

  @property
  def origin(self) -> tuple[int, ...]:
    return tuple(start for start, _ in self.window)


@dataclasses.dataclass(frozen=True)
class Tiling:
  """How a clip is cut.

  Attributes:
    window: frames, height and width of every window.
    slabs: groups of tiles that have the same frames, in the order of time.
    weights: one weight per frame of each slab's window; they add up to 1 at every frame of the clip. None: the cores cover the clip once.
  """

  window: tuple[int, int, int]
  slabs: tuple[tuple[Tile, ...], ...]
  weights: tuple[np.ndarray, ...] | None = None

  @property
  def count(self) -> int:
    return sum(map(len, self.slabs))


def tile_stage(spec: StageSpec, tile: Sequence[int] = (), *, clips: int = 1) -> Tiling:
  """Cuts the stage's output clip.

  Args:
    tile: frames, height and width of a window, 0 for the whole axis; they are rounded up to the stage's grid. Empty: the whole clip if it
      has at most AUTO_PIXELS pixels or cannot be cut, else as many frames as fit into AUTO_PIXELS.
    clips: number of clips that a device computes together; they share the pixels of the automatic window.

  Raises:
    UserError: a window no larger than twice the halo, or an axis that the network mixes as a whole.
  """
  sizes = spec.output.array[:3]
  steps = (spec.time_factor, spec.unet.stride, spec.unet.stride)
  wanted = list(tile) or [_auto_frames(spec, AUTO_PIXELS // clips), 0, 0]
  cuts = [_cut(spec, *axis) for axis in zip(AXES, sizes, steps, wanted, strict=True)]
  slabs = tuple(tuple(_tile(frames, *place) for place in itertools.product(*cuts[1:])) for frames in cuts[0])
  frames, height, width = (stop - start for start, stop in slabs[0][0].window)
  return Tiling((frames, height, width), slabs)


def stage_tiling(spec: StageSpec, tile: Sequence[int] = (), *, clips: int = 1, cut: bool = False) -> Tiling:
  """`tile_stage`, except that the automatic choice is the whole clip if the threshold reads all of it or if devices share it.

  Args:
    cut: whether a mesh distributes the frames or rows of the clip over devices.

  Raises:
    UserError: as tile_stage; or tiles of a clip that has a dynamic threshold or is cut by the mesh.
  """
  dynamic = spec.sampling.threshold is ThresholdKind.DYNAMIC
  tiling = tile_stage(spec, (0, 0, 0) if (dynamic or cut) and not tile else tile, clips=clips)
  if dynamic and tiling.count > 1:
    raise UserError(f"stage {spec.name}: a dynamic threshold looks at the whole clip: expected threshold=static, or tile=whole")
  if cut and tiling.count > 1:
    tiles = "x".join(map(str, tile))
    raise UserError(f"tile={tiles} of stage {spec.name}: a mesh with frames or height cuts whole clips: expected no tile, or no such axis")
  return tiling


def blended(tiling: Tiling, spec: StageSpec) -> Tiling:
  """Windows over the whole clip of `spec`, each cut as in `tiling`. They start half a window apart; the last ends with the clip.

  This is for networks that attend over frames and only know clips of their own length. In every step, the x_hat of a window is weighted by
  the distance of each frame from the ends of the window, so that nothing jumps: the windows of MultiDiffusion (arXiv 2302.08113), in time.
  """
  length, frames, step = tiling.window[0], spec.output.frames, spec.time_factor
  hop = max(step, length // 2 // step * step)
  starts = [*range(0, frames - length, hop), frames - length]

  def moved(span: tuple[int, int], start: int) -> tuple[int, int]:
    return span[0] + start, span[1] + start

  def at(tile: Tile, start: int) -> Tile:
    return Tile(*((moved(spans[0], start), *spans[1:]) for spans in (tile.window, tile.core)))

  near = np.minimum(np.arange(length) + 1, length - np.arange(length)).astype(np.float32)
  total = np.zeros(frames, np.float32)
  for start in starts:
    total[start : start + length] += near
  slabs = tuple(tuple(at(tile, start) for tile in tiling.slabs[0]) for start in starts)
  return Tiling(tiling.window, slabs, tuple(near / total[start : start + length] for start in starts))


def stretched(spec: StageSpec, frames: int) -> StageSpec:
  """The stage for an input with another number of frames than in training, at the same rates.

  Raises:
    UserError: the network attends over frames, and there are fewer than in training.
  """
  if frames == spec.lowres.input.frames:
    return spec
  if not spec.unet.frame_local and frames < spec.lowres.input.frames:
    raise UserError(f"stage {spec.name} attends over {spec.lowres.input.frames} input frames: expected as many or more, not {frames}")
  small = dataclasses.replace(spec.lowres.input, frames=frames)
  output = dataclasses.replace(spec.output, frames=frames * spec.time_factor)
  return dataclasses.replace(spec, output=output, lowres=dataclasses.replace(spec.lowres, input=small))  # pyright: ignore[reportArgumentType]  only stages with a low-resolution clip are streamed


def _auto_frames(spec: StageSpec, pixels: int) -> int:
  """Frames of an automatic window of about `pixels` pixels; 0 for all frames."""
  clip = spec.output
  if not spec.unet.frame_local or math.prod(clip.array[:3]) <= pixels:
    return 0
  least = 4 * frame_halo(spec.unet) + spec.time_factor  # shorter windows would compute more overlap than clip
  return max(pixels // (clip.height * clip.width), least)


def _cut(spec: StageSpec, axis: str, size: int, step: int, want: int) -> list[Cut]:
  """Windows and cores along one axis; windows start at multiples of `step`."""
  if want < 0:
    raise UserError(f"tile {axis}={want}: expected 1 or more, or 0 for all of {size}")
  # Window and clip have the same remainder modulo `step`, so that the last window starts on the grid, too.
  length = want + (size - want) % step if want else size
  if length >= size:
    return [((0, size), (0, size))]
  try:
    halo = frame_halo(spec.unet) if axis == "frames" else pixel_halo(spec.unet)
  except ValueError as error:
    raise UserError(f"tile {axis}={want}: stage {spec.name} takes {axis} whole: {error}") from None
  stride = (length - 2 * halo) // step * step
  if stride < 1:
    least = 2 * halo + step + (size - 2 * halo - step) % step
    enough = f"{least} or more, or 0 for all of {size}" if least < size else f"0, all of {size}"
    raise UserError(f"tile {axis}={want} of stage {spec.name} is all overlap: expected {enough}")
  starts = [*range(0, size - length, stride), size - length]
  stops = [*(start + length - halo for start in starts[:-1]), size]
  return [((start, start + length), core) for start, core in zip(starts, itertools.pairwise([0, *stops]), strict=True)]


def _tile(*cuts: Cut) -> Tile:
  windows, cores = zip(*cuts, strict=True)
  return Tile(windows, cores)
