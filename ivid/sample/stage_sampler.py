"""Sampling one stage: the Python loop over the steps of one compiled step (Imagen Video, sections 2.1 and 2.5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ivid.diffusion.samplers import SampleState
from ivid.sample import meshes
from ivid.sample.resampling import RESAMPLINGS, back_up
from ivid.sample.running import AGAIN, AUGMENT, INITIAL, Run, draw_noise, slices, start_run
from ivid.sample.tiling import Tiling
from ivid.spec.errors import UserError
from ivid.spec.sampling import SamplingSpec, ThresholdKind
from ivid.spec.stage import StageSpec
from ivid.stage import Stage
from ivid.video.noise import BLOCK


def sample_stage(
  stage: Stage,
  params: Any,
  *,
  keys: jax.Array,
  text: Any,
  text_mask: Any,
  sampling: SamplingSpec,
  small: Any = None,
  given: tuple[Any, Any] | None = None,
  negative: tuple[Any, Any] | None = None,
  resamplings: int = RESAMPLINGS,
  tiling: Tiling | None = None,
  progress: Callable[[int, int], None] | None = None,
  mesh: Mesh | None = None,
) -> np.ndarray:
  """Clips [B, T, H, W, 3] float32 in [-1, 1], at the stage's output size.

  Up to float32 rounding, a clip only depends on its own key, text and input, but not on its row, the size of the batch, the mesh or the
  tiles.

  Args:
    params: unboxed parameters.
    keys: [B] typed keys.
    text: [B, K, L, D]; K = 1.
    text_mask: [B, K, L] bool.
    small: [B, t, h, w, 3] in [-1, 1], clips at the stage's input size; None in the base.
    given: frames [B, T, H, W, 3] in [-1, 1] and their mask [B, T], for a base only. Where the mask is True, they are returned unchanged.
      A network with unet.given reads them; others see them in z_t (ivid.sample.resampling).
    negative: text and mask, like `text` and `text_mask`, that guidance leads away from; only read if there is guidance.
    resamplings: number of times that each step is made if frames are given to a stage without unet.given.
    tiling: how a step is cut (ivid.sample.tiling); None: the whole clip at once. The clip then
      lies in host memory between steps, and a device holds the stage's input and one tile.
    progress: called with (evaluations done, evaluations) after each step of each tile.
    mesh: devices that share the batch and, by the axes frames and height, each clip; parameters are spread by their logical axes.

  Raises:
    UserError: `small` is missing, superfluous or does not have the stage's input size; `given` is for a stage that has an input, or does
      not have its output size; the mesh does not divide the batch or a clip; or there are tiles on a mesh that cuts clips.
  """
  spec = stage.spec
  _check_small(spec, small)
  _check_given(spec, given, keys.shape[0])
  if mesh is not None:
    meshes.check_divides(mesh, [spec], batches=[keys.shape[0]])
    if tiling is not None and tiling.count > 1 and meshes.cuts_clips(meshes.mesh_spec(mesh)):
      raise UserError(f"{tiling.count} tiles of stage {spec.name} on a mesh that cuts its clips: expected whole clips")
  times = resamplings if given is not None and not spec.unet.given else 1
  told: dict[str, Any] = dict(keys=keys, text=text, text_mask=text_mask, negative=negative, given=given)
  run = start_run(stage, params, sampling=sampling, progress=progress, mesh=mesh, times=times, **told)
  if small is not None:
    noise = draw_noise(run.keys, small.shape[1:], AUGMENT, mesh=mesh)
    run = run._replace(noised=(run.place.clips(np.asarray(small, np.float32)), run.cond.aug_logsnr, noise))
  return _sample_whole(run) if tiling is None or tiling.count == 1 else _sample_tiles(run, tiling)


def _sample_whole(run: Run) -> np.ndarray:
  """All steps on the whole clip, which stays on the devices."""
  shape, compiled = run.stage.spec.output.array, run.compiled
  cond = run.cond.replace(lowres=compiled.grow(*run.noised)) if run.noised else run.cond
  z = draw_noise(run.keys, shape, INITIAL, mesh=run.mesh)
  state = SampleState(z=z, x_hat=jnp.zeros_like(z, device=run.mesh and z.sharding) if run.multistep else None)
  plan = run.turns()
  for n, turn in enumerate(plan):
    if turn.again:
      noise = draw_noise(run.keys, shape, AGAIN, turn.draw, mesh=run.mesh)
      state = dataclasses.replace(state, z=back_up()(state.z, noise, turn.inputs))
    state = jax.block_until_ready(compiled.step(run.params, state, cond, run.step_noise(turn, shape), turn.inputs))
    run.progress(n + 1, len(plan))
  return np.clip(np.asarray(state.z, np.float32), -1.0, 1.0)


def _sample_tiles(run: Run, tiling: Tiling) -> np.ndarray:
  """All steps, each tile by tile. The clip is changed in place as soon as no later tile reads the old values."""
  assert run.sampling.threshold is not ThresholdKind.DYNAMIC, "a dynamic threshold looks at the whole clip (see stage_tiling)"
  output, compiled = run.stage.spec.output, run.compiled
  noisy, window = compiled.noised(*run.noised) if run.noised else None, compiled.window(tiling.window)
  clips = SampleState(z=_host_noise(run, INITIAL))
  if run.multistep:
    clips = dataclasses.replace(clips, x_hat=np.zeros_like(clips.z))
  needed = [slab[0].origin[0] for slab in tiling.slabs[1:]] + [output.frames]  # the first frame that later slabs read
  plan, done = run.turns(), 0
  for turn in plan:
    if turn.again:
      clips.z[:] = back_up()(clips.z, _host_noise(run, AGAIN, turn.draw), turn.inputs)
    waiting: list[_Piece] = []
    blended = jax.tree.map(np.zeros_like, clips) if tiling.weights else None
    for n, (slab, start) in enumerate(zip(tiling.slabs, needed, strict=True)):
      for tile in slab:
        origin = np.array(tile.origin, np.int32)
        cond = run.tile_cond(tile, lambda origin=origin: window(noisy, origin))
        noise = run.step_noise(turn, (*tiling.window, 3), origin=origin, aligned=False)
        state = jax.tree.map(run.place.rows, _part(clips, tile.window))
        state = compiled.tile_step(run.params, state, cond, noise, turn.inputs)
        core = tuple((a - o, b - o) for (a, b), o in zip(tile.core, tile.origin, strict=True))
        piece = _Piece(slices(tile.core), _part(jax.tree.map(np.asarray, state), core))
        if blended is not None:
          _add(blended, piece, tiling.weights[n])
        else:
          waiting.append(piece)
        done += 1
        run.progress(done, len(plan) * tiling.count)
      waiting = _settle(clips, waiting, start)
    clips = clips if blended is None else blended
  return np.clip(clips.z, -1.0, 1.0, out=clips.z)


class _Piece(NamedTuple):
  """A part of a clip, and its new values."""

  place: tuple[slice, ...]
  made: SampleState


def _add(clips: SampleState, piece: _Piece, weights: np.ndarray) -> None:
  """Adds a piece, weighted per frame. All tiles of a step start from the same z_t, so this blends their x_hat."""
  for clip, values in zip(jax.tree.leaves(clips), jax.tree.leaves(piece.made), strict=True):
    clip[piece.place] += weights[:, None, None, None] * values


def _settle(clips: SampleState, waiting: list[_Piece], start: int) -> list[_Piece]:
  """Writes the pieces before frame `start`, and returns the rest."""
  rest = []
  for (batch, frames, *place), made in waiting:
    count = max(0, min(frames.stop, start) - frames.start)
    here, later = slice(frames.start, frames.start + count), slice(frames.start + count, frames.stop)
    for clip, values in zip(jax.tree.leaves(clips), jax.tree.leaves(made), strict=True):
      clip[batch, here, *place] = values[:, :count]
    if later.start < later.stop:  # a copy, so that the tile's memory is freed
      rest.append(_Piece((batch, later, *place), jax.tree.map(lambda values, count=count: values[:, count:].copy(), made)))
  return rest


def _host_noise(run: Run, stream: int, index: int = 0) -> np.ndarray:
  """[B, *shape] in host memory, drawn a few frames at a time."""
  shape = run.stage.spec.output.array
  z = np.empty((run.keys.shape[0], *shape), np.float32)
  depth = BLOCK[0]
  for first in range(0, shape[0], depth):
    frames = z[:, first : first + depth]
    drawn = draw_noise(run.keys, (depth, *shape[1:]), stream, index, origin=np.array([first, 0, 0], np.int32), mesh=run.mesh)
    frames[:] = np.asarray(drawn)[:, : frames.shape[1]]
  return z


def _part(clips: SampleState, spans: tuple[tuple[int, int], ...]) -> SampleState:
  place = slices(spans)
  return jax.tree.map(lambda clip: clip[place], clips)


def _check_given(spec: StageSpec, given: tuple[Any, Any] | None, batch_size: int) -> None:
  if given is None:
    return
  if spec.lowres is not None:
    raise UserError(f"stage {spec.name} has an input and takes no given frames: expected a base")
  want = (batch_size, *spec.output.array)
  if np.shape(given[0]) != want or np.shape(given[1]) != want[:2]:
    raise UserError(f"given frames {np.shape(given[0])} with a mask {np.shape(given[1])}: expected {want} and {want[:2]}")


def _check_small(spec: StageSpec, small: Any) -> None:
  if spec.lowres is None:
    if small is not None:
      raise UserError(f"stage {spec.name} is a base and takes no input clip")
    return
  if small is None:
    raise UserError(f"stage {spec.name} needs an input clip of {spec.lowres.input}")
  t, h, w = small.shape[1:4]
  want = spec.lowres.input
  if (t, h, w) != (want.frames, want.height, want.width):
    raise UserError(f"input clip of {t}x{h}x{w}: stage {spec.name} takes {want.frames}x{want.height}x{want.width}")
