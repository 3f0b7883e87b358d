"""Long clips of stages that see only a few frames around each frame, in memory that does not grow with the length.

A step only needs one window of the clip around the frames that it makes. So each step runs a little behind the previous one, over windows
in the order of time, and a frame is stored as bytes as soon as the last step has made it. Fewer than two windows lie between two steps.
Noise is drawn ahead and frames are stored in threads of their own: both leave cores idle that steps can use.
Windows, noise and arithmetic are the same as in ivid.sample.stage_sampler, and so are the frames.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ivid.diffusion.samplers import SampleState
from ivid.media.clips import from_uint8, to_uint8
from ivid.prefetch import Prefetched
from ivid.sample import running
from ivid.sample.programs import compiled_programs, compiled_sampling, compiled_stage
from ivid.sample.running import Run, draw_noise
from ivid.sample.tiling import Tile, Tiling, stretched
from ivid.spec.errors import UserError
from ivid.spec.stage import StageSpec
from ivid.stage import Stage
from ivid.video.noise import BLOCK

STORED_BYTES = 1 << 29  # finished clips of at least this size lie in a file


def is_streamed(spec: StageSpec, tiling: Tiling) -> bool:
  """Whether a clip is so long that the frames between its steps are fewer than those of the clip."""
  if spec.lowres is None or not spec.unet.frame_local:
    return False
  return frames_between(spec, tiling) < spec.output.frames


def frames_between(spec: StageSpec, tiling: Tiling) -> int:
  """The number of frames held between steps when a clip is streamed: a window before each step, and the frames that complete it."""
  return 2 * spec.sampling.steps * tiling.window[0]


def stream_stage(stage: Stage, params: Any, *, small: Sequence[np.ndarray], tiling: Tiling, **options: Any) -> np.ndarray:
  """Clips [B, T, H, W, 3] uint8, as to_uint8(sample_stage(...)) gives them.

  Args:
    small: B clips [t, h, w, 3] uint8 at the stage's input size.
    options: as of sample_stage.

  Raises:
    UserError: the disk has no space for the frames.
  """
  run = running.start_run(stage, params, **options)
  made = stored((len(small), *stage.spec.output.array))
  with Prefetched(_streamed(run, small, tiling), "frames") as finished:
    for start, frames in finished:
      made[:, start : start + frames.shape[1]] = to_uint8(frames)
      forget(made)
  return made


def stored(shape: tuple[int, ...]) -> np.ndarray:
  """A byte array of this shape. A large one lies in an unnamed file in the folder TMPDIR, which disappears with the array.

  Raises:
    UserError: there is no space for it.
  """
  count = math.prod(shape)
  if count < STORED_BYTES:
    return np.empty(shape, np.uint8)
  with tempfile.TemporaryFile() as file:
    try:
      os.posix_fallocate(file.fileno(), 0, count)  # if a page found no space later, the process would be killed
    except OSError as error:
      where = f"{tempfile.gettempdir()} has no {count / 1e9:.3g} GB for a clip's frames: {error.strerror}"
      raise UserError(f"{where}; expected a shorter clip, or another folder in TMPDIR") from None
    return np.memmap(file, np.uint8, "r+", shape=shape)


def forget(clip: np.ndarray) -> None:
  """Frees the memory of an array whose contents are in a file anyway."""
  if isinstance(clip, np.memmap):
    clip._mmap.madvise(mmap.MADV_DONTNEED)  # pyright: ignore[reportAttributeAccessIssue]  the only way to its mapping


class _Level:
  """The frames of z_t (and of x_hat, if the sampler reads it) between two steps that the later step still reads."""

  def __init__(self):
    self.first, self.held = 0, None

  @property
  def stop(self) -> int:
    return self.first + (0 if self.held is None else self.held.z.shape[1])

  def add(self, frames: SampleState) -> None:
    self.held = frames if self.held is None else jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), self.held, frames)

  def drop(self, before: int) -> None:
    """Drops frames and copies the rest, so that the memory is freed."""
    count = before - self.first
    self.held, self.first = jax.tree.map(lambda clip: clip[:, count:].copy(), self.held), before

  def window(self, tile: Tile) -> SampleState:
    (start, stop), *place = tile.window
    return jax.tree.map(lambda clip: clip[:, start - self.first : stop - self.first, *(slice(*span) for span in place)], self.held)


def _streamed(run: Run, small: Sequence[np.ndarray], tiling: Tiling) -> Iterator[tuple[int, np.ndarray]]:
  """Yields runs of finished frames [B, n, H, W, 3], not clipped, with the number of the first frame, in the order of time.

  Among all steps that have a complete window, the last one runs first, so that frames are finished as early as possible.
  """
  plan, slabs = run.turns(), tiling.slabs
  levels, at, done = [_Level() for _ in plan], [0] * len(plan), 0
  later = [slab[0].origin[0] for slab in slabs[1:]] + [slabs[-1][0].window[0][1]]  # the first frame that later slabs read
  step = _slab_step(run, small, tiling)
  with Prefetched(_noise(run, tiling), "noise") as noise:
    while at[-1] < len(slabs):
      ready = (n for n in reversed(range(len(plan))) if at[n] < len(slabs) and levels[n].stop >= slabs[at[n]][0].window[0][1])
      n = next(ready, None)
      if n is None:
        levels[0].add(next(noise))
        continue
      slab = slabs[at[n]]
      made = step(plan[n], slab, levels[n])
      levels[n].drop(later[at[n]])
      at[n] += 1
      for _ in slab:
        done += 1
        run.progress(done, len(plan) * tiling.count)
      if n + 1 < len(plan):
        levels[n + 1].add(made)
      else:
        yield slab[0].core[0][0], made.z


def _noise(run: Run, tiling: Tiling) -> Iterator[SampleState]:
  """z_1, slab by slab: the frames that the slab reads and those before do not."""
  start = 0
  for slab in tiling.slabs:
    stop = slab[0].window[0][1]
    shape = (stop - start, *run.stage.spec.output.array[1:])
    place: dict[str, Any] = dict(origin=np.array([start, 0, 0], np.int32), aligned=start % BLOCK[0] == 0)
    z = np.asarray(draw_noise(run.keys, shape, running.INITIAL, mesh=run.mesh, **place))
    yield SampleState(z=z, x_hat=np.zeros_like(z) if run.multistep else None)
    start = stop


def _slab_step(run: Run, small: Sequence[np.ndarray], tiling: Tiling) -> Callable[..., SampleState]:
  """Function (turn, slab, level) -> the result of a step for the core of the slab, [B, n, H, W, 3]."""
  spec = run.stage.spec
  count = tiling.window[0] // spec.time_factor
  part = Stage(stretched(spec, count + 1))  # what a window reads, whatever the length of the clip, and one more frame for TimeFill.LINEAR
  compiled = compiled_programs(compiled_stage(part.spec), compiled_sampling(spec, run.sampling), run.mesh)
  window = compiled.window(tiling.window)

  def noisy(start: int) -> jax.Array:
    """The noised frames of the input from `start` on. After the end, the last frame is repeated, with its own noise."""
    frames = np.minimum(np.arange(start, start + count + 1), len(small[0]) - 1)
    clip = run.place.rows(from_uint8(np.stack([clip[frames[0] : frames[-1] + 1] for clip in small])))
    origin = np.array([start, 0, 0], np.int32)
    noise = draw_noise(run.keys, clip.shape[1:], running.AUGMENT, origin=origin, aligned=False, mesh=run.mesh)
    noised = compiled.noised(clip, run.cond.aug_logsnr, noise)
    return noised if noised.shape[1] == count + 1 else np.concatenate([noised, noised[:, -1:]], axis=1)  # pyright: ignore[reportReturnType]  the only way to its mapping

  def step(turn: running.Turn, slab: Sequence[Tile], held: _Level) -> SampleState:
    (start, stop), clip = slab[0].core[0], noisy(slab[0].origin[0] // spec.time_factor)
    made = SampleState(z=np.empty((len(small), stop - start, *spec.output.array[1:]), np.float32))
    if run.multistep:
      made = SampleState(z=made.z, x_hat=np.empty_like(made.z))
    for tile in slab:
      cond = run.cond.replace(lowres=window(clip, np.array([0, *tile.origin[1:]], np.int32)))
      noise = run.step_noise(turn, (*tiling.window, 3), origin=np.array(tile.origin, np.int32), aligned=False)
      state = compiled.tile_step(run.params, jax.tree.map(run.place.rows, held.window(tile)), cond, noise, turn.inputs)
      core = running.slices(tuple((a - o, b - o) for (a, b), o in zip(tile.core, tile.origin, strict=True)))
      place = running.slices(((0, stop - start), *tile.core[1:]))
      for whole, values in zip(jax.tree.leaves(made), jax.tree.leaves(state), strict=True):
        whole[place] = np.asarray(values)[core]
    return made

  return step
