"""Sampling one stage: the Python loop over the steps of one compiled step (Imagen Video, sections 2.1 and 2.5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ivid.diffusion import augment, samplers
from ivid.diffusion.samplers import SampleState
from ivid.nets.inputs import Conditioning
from ivid.parallel import sharding
from ivid.sample import meshes
from ivid.sample.programs import (
  Compiled,
  compiled_programs,
  compiled_sampling,
  compiled_stage,
  noise_function,
  param_shardings,
  step_inputs,
)
from ivid.sample.tiling import Tiling
from ivid.spec import batch as batches
from ivid.spec.errors import UserError
from ivid.spec.sampling import SamplingSpec, ThresholdKind
from ivid.spec.stage import StageSpec
from ivid.stage import Stage, evaluations_per_step
from ivid.video.noise import BLOCK

# Names of the streams a sample draws from; folded into its key.
_INITIAL, _AUGMENT, _STEP = range(3)
ORIGIN = np.zeros(3, np.int32)


def place_params(stage: Stage, params: Any, mesh: Mesh | None = None) -> Any:
  """Parameters on the default device, or over the mesh by their logical axes. No copy of what is already there."""
  if mesh is None:
    return jax.device_put(params)
  return jax.device_put(params, param_shardings(stage.spec, mesh))


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
  tiling: Tiling | None = None,
  progress: Callable[[int, int], None] | None = None,
  mesh: Mesh | None = None,
) -> np.ndarray:
  """Clips [B, T, H, W, 3] float32 in [-1, 1], at the stage's output size.

  A clip depends on its own key, text and input alone, up to float32 rounding: not on its place in the batch, the batch's size, the mesh or
  the tiles.

  Args:
    params: unboxed parameters.
    keys: [B] typed keys.
    text: [B, K, L, D]; K = 1.
    text_mask: [B, K, L] bool.
    small: [B, t, h, w, 3] in [-1, 1], clips at the stage's input size; None in the base.
    given: frames [B, T, H, W, 3] in [-1, 1] that come out as they are where their mask [B, T] is True; of stages with unet.given alone.
    negative: text and its mask, like `text` and `text_mask`, that guidance leads away from; read where there is guidance alone.
    tiling: how a step is cut (ivid.sample.tiling); None: the whole clip at once. The clip then
      lies in host memory between steps, and a device holds the stage's input and one tile.
    progress: called with (evaluations done, evaluations) after each step of each tile.
    mesh: devices that share the batch and, by its axes frames and height, each clip; parameters lie over them by their logical axes.

  Raises:
    UserError: `small` missing, superfluous or of another size than the stage's input; `given` for a stage without unet.given or of
      another size than its output; a batch or a clip that the mesh does not divide; tiles on a mesh that cuts clips.
  """
  spec = stage.spec
  B = keys.shape[0]
  _check_small(spec, small)
  _check_given(spec, given, B)
  if mesh is not None:
    meshes.check_divides(mesh, [spec], batches=[B])
    if tiling is not None and tiling.count > 1 and meshes.cuts_clips(meshes.mesh_spec(mesh)):
      raise UserError(f"{tiling.count} tiles of stage {spec.name} on a mesh that cuts its clips: expected whole clips")
  rows, clips = _placements(mesh)
  keys = rows(keys)
  told = {
    batches.TEXT: rows(text),
    batches.TEXT_MASK: rows(text_mask),
    batches.IS_VIDEO: rows(np.ones(B, bool)),
    batches.FPS: rows(np.full(B, spec.output.fps, np.float32)),
  }
  cond = stage.conditioning(told, pictures=batches.holds_pictures(spec.output.frames))
  if given is not None:
    cond = cond.replace(given=(clips(np.asarray(given[0], np.float32)), rows(np.asarray(given[1], bool))))
  if negative is not None and evaluations_per_step(spec, sampling) > 1:
    cond = cond.replace(negative=(rows(negative[0]), rows(negative[1])))
  noised = None
  if spec.lowres is not None:
    level = rows(np.full(B, augment.logsnr_from_snr(spec.lowres.aug_snr), np.float32))
    cond = cond.replace(aug_logsnr=level)
    noised = clips(np.asarray(small, np.float32)), level, _noise(keys, small.shape[1:], _AUGMENT, mesh=mesh)
  run = _Run(stage, place_params(stage, params, mesh), keys, cond, noised, sampling, progress or (lambda *_: None), mesh)
  return _sample_whole(run) if tiling is None or tiling.count == 1 else _sample_tiles(run, tiling, rows)


class _Run(NamedTuple):
  """What all steps share; `noised`: the small clip, its level and its noise."""

  stage: Stage
  params: Any
  keys: jax.Array
  cond: Conditioning
  noised: tuple[jax.Array, jax.Array, jax.Array] | None
  sampling: SamplingSpec
  progress: Callable[[int, int], None]
  mesh: Mesh | None

  @property
  def compiled(self) -> Compiled:
    return compiled_programs(compiled_stage(self.stage.spec), compiled_sampling(self.stage.spec, self.sampling), self.mesh)

  @property
  def multistep(self) -> bool:
    return samplers.is_multistep(self.sampling.sampler)

  def step_noise(self, index: int, shape: tuple[int, ...], **place: Any) -> jax.Array | None:
    """What a sampler adds in a step, if it adds noise."""
    return _noise(self.keys, shape, _STEP, index, mesh=self.mesh, **place) if samplers.adds_noise(self.sampling.sampler) else None


def _sample_whole(run: _Run) -> np.ndarray:
  """All steps on the whole clip, which stays on the devices."""
  shape, compiled = run.stage.spec.output.array, run.compiled
  cond = run.cond.replace(lowres=compiled.grow(*run.noised)) if run.noised else run.cond
  z = _noise(run.keys, shape, _INITIAL, mesh=run.mesh)
  state = SampleState(z=z, x_hat=jnp.zeros_like(z, device=run.mesh and z.sharding) if run.multistep else None)
  inputs = step_inputs(run.stage, run.sampling)
  for i, scalars in enumerate(inputs):
    state = jax.block_until_ready(compiled.step(run.params, state, cond, run.step_noise(i, shape), scalars))
    run.progress(i + 1, len(inputs))
  return np.clip(np.asarray(state.z, np.float32), -1.0, 1.0)


def _sample_tiles(run: _Run, tiling: Tiling, rows: Callable[[Any], jax.Array]) -> np.ndarray:
  """All steps, each tile by tile; the clip is changed in place as soon as no tile to come reads the old values."""
  assert run.sampling.threshold is not ThresholdKind.DYNAMIC, "a dynamic threshold looks at the whole clip (see stage_tiling)"
  output, compiled = run.stage.spec.output, run.compiled
  noisy, window = compiled.noised(*run.noised) if run.noised else None, compiled.window(tiling.window)
  clips = SampleState(z=_initial_noise(run.keys, output.array, mesh=run.mesh))
  if run.multistep:
    clips = dataclasses.replace(clips, x_hat=np.zeros_like(clips.z))
  needed = [slab[0].origin[0] for slab in tiling.slabs[1:]] + [output.frames]  # the first frame that later slabs read
  inputs, done = step_inputs(run.stage, run.sampling), 0
  for i, scalars in enumerate(inputs):
    waiting: list[_Piece] = []
    for slab, start in zip(tiling.slabs, needed, strict=True):
      for tile in slab:
        origin = np.array(tile.origin, np.int32)
        cond = run.cond.replace(lowres=window(noisy, origin)) if run.noised else run.cond
        noise = run.step_noise(i, (*tiling.window, 3), origin=origin, aligned=False)
        state = jax.tree.map(rows, _part(clips, tile.window))
        state = compiled.tile_step(run.params, state, cond, noise, scalars)
        core = tuple((a - o, b - o) for (a, b), o in zip(tile.core, tile.origin, strict=True))
        waiting.append(_Piece(_slices(tile.core), _part(jax.tree.map(np.asarray, state), core)))
        done += 1
        run.progress(done, len(inputs) * tiling.count)
      waiting = _settle(clips, waiting, start)
  return np.clip(clips.z, -1.0, 1.0, out=clips.z)


class _Piece(NamedTuple):
  """A part of a clip, and its new values."""

  place: tuple[slice, ...]
  made: SampleState


def _settle(clips: SampleState, waiting: list[_Piece], start: int) -> list[_Piece]:
  """Writes what lies before frame `start`, and returns the rest."""
  rest = []
  for (batch, frames, *place), made in waiting:
    count = max(0, min(frames.stop, start) - frames.start)
    here, later = slice(frames.start, frames.start + count), slice(frames.start + count, frames.stop)
    for clip, values in zip(jax.tree.leaves(clips), jax.tree.leaves(made), strict=True):
      clip[batch, here, *place] = values[:, :count]
    if later.start < later.stop:  # a copy, so that the tile's memory goes
      rest.append(_Piece((batch, later, *place), jax.tree.map(lambda values, count=count: values[:, count:].copy(), made)))
  return rest


def _initial_noise(keys: jax.Array, shape: tuple[int, int, int, int], *, mesh: Mesh | None) -> np.ndarray:
  """[B, *shape] in host memory, drawn a few frames at a time."""
  z = np.empty((keys.shape[0], *shape), np.float32)
  depth = BLOCK[0]
  for first in range(0, shape[0], depth):
    frames = z[:, first : first + depth]
    drawn = _noise(keys, (depth, *shape[1:]), _INITIAL, origin=np.array([first, 0, 0], np.int32), mesh=mesh)
    frames[:] = np.asarray(drawn)[:, : frames.shape[1]]
  return z


def _part(clips: SampleState, spans: tuple[tuple[int, int], ...]) -> SampleState:
  place = _slices(spans)
  return jax.tree.map(lambda clip: clip[place], clips)


def _slices(spans: tuple[tuple[int, int], ...]) -> tuple[slice, ...]:
  """Index of a batch of clips [B, T, H, W, C]."""
  return (slice(None), *(slice(start, stop) for start, stop in spans))


def _noise(
  keys: jax.Array,
  shape: tuple[int, ...],
  stream: int,
  index: int = 0,
  *,
  origin: np.ndarray = ORIGIN,
  aligned: bool = True,
  mesh: Mesh | None = None,
) -> jax.Array:
  """[B, *shape], the draw that each sample's key makes for this stream and step, from `origin` of the clip on."""
  placed = None if mesh is None else sharding.clip_sharding(mesh, (keys.shape[0], *shape))
  return noise_function(tuple(shape), aligned, placed)(keys, np.array([stream, index], np.int32), origin)


def _placements(mesh: Mesh | None) -> tuple[Callable[[Any], jax.Array], Callable[[Any], jax.Array]]:
  """What puts an array on the devices by rows of the batch, and a clip also by its frames and rows of pixels."""
  if mesh is None:
    return jax.device_put, jax.device_put
  rows = sharding.batch_sharding(mesh)
  return lambda array: jax.device_put(array, rows), lambda clip: jax.device_put(clip, sharding.clip_sharding(mesh, clip.shape))


def _check_given(spec: StageSpec, given: tuple[Any, Any] | None, batch_size: int) -> None:
  if given is None:
    return
  if not spec.unet.given:
    raise UserError(f"stage {spec.name} reads no given frames: expected one trained with unet.given=True")
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
