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
from ivid.sample.programs import compiled_programs, compiled_sampling, compiled_stage, noise_function, param_shardings, step_inputs
from ivid.sample.resampling import RESAMPLINGS, Turn, back_up, turns
from ivid.sample.tiling import Tile, Tiling
from ivid.spec import batch as batches
from ivid.spec.errors import UserError
from ivid.spec.sampling import SamplingSpec, ThresholdKind
from ivid.spec.stage import StageSpec
from ivid.stage import Stage
from ivid.video.noise import BLOCK

# Names of the streams a sample draws from; folded into its key.
INITIAL, AUGMENT, STEP, AGAIN = range(4)
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
  resamplings: int = RESAMPLINGS,
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
    given: frames [B, T, H, W, 3] in [-1, 1] that come out as they are where their mask [B, T] is True; of a base alone. One with
      unet.given reads them, others see them in z_t (ivid.sample.resampling).
    resamplings: times that each step is made where frames are given to a stage without unet.given.
    tiling: how a step is cut (ivid.sample.tiling); None: the whole clip at once. The clip then
      lies in host memory between steps, and a device holds the stage's input and one tile.
    progress: called with (evaluations done, evaluations) after each step of each tile.
    mesh: devices that share the batch.

  Raises:
    UserError: `small` missing, superfluous or of another size than the stage's input; `given` for a stage that has an input, or of
      another size than its output; a batch that the mesh does not divide.
  """
  spec = stage.spec
  _check_small(spec, small)
  _check_given(spec, given, keys.shape[0])
  times = resamplings if given is not None and not spec.unet.given else 1
  options = dict(keys=keys, text=text, text_mask=text_mask, sampling=sampling, given=given, progress=progress, mesh=mesh, times=times)
  run, rows = start_run(stage, params, **options)
  if small is not None:
    run = run._replace(noised=(rows(np.asarray(small, np.float32)), run.cond.aug_logsnr, draw_noise(run.keys, small.shape[1:], AUGMENT)))
  return _sample_whole(run) if tiling is None or tiling.count == 1 else _sample_tiles(run, tiling, rows)


def start_run(
  stage: Stage,
  params: Any,
  *,
  keys: jax.Array,
  text: Any,
  text_mask: Any,
  sampling: SamplingSpec,
  given: tuple[Any, Any] | None = None,
  progress: Callable[[int, int], None] | None = None,
  mesh: Mesh | None = None,
  times: int = 1,
) -> tuple[Run, Callable[[Any], jax.Array]]:
  """What all steps of sample_stage share, without the small clip, and the function that places rows of a batch.

  Args:
    times: that each step is made.
  """
  spec, B = stage.spec, keys.shape[0]
  rows = _rows_placement(mesh, B)
  keys = rows(keys)
  told = {
    batches.TEXT: rows(text),
    batches.TEXT_MASK: rows(text_mask),
    batches.IS_VIDEO: rows(np.ones(B, bool)),
    batches.FPS: rows(np.full(B, spec.output.fps, np.float32)),
  }
  cond = stage.conditioning(told, pictures=batches.holds_pictures(spec.output.frames))
  if given is not None:
    cond = cond.replace(given=(rows(np.asarray(given[0], np.float32)), rows(np.asarray(given[1], bool))))
  if spec.lowres is not None:
    cond = cond.replace(aug_logsnr=rows(np.full(B, augment.logsnr_from_snr(spec.lowres.aug_snr), np.float32)))
  placed = place_params(stage, params, mesh)
  return Run(stage, placed, keys, cond, None, sampling, progress or (lambda *_: None), times), rows


class Run(NamedTuple):
  """What all steps share; `noised`: the small clip, its level and its noise."""

  stage: Stage
  params: Any
  keys: jax.Array
  cond: Conditioning
  noised: tuple[jax.Array, jax.Array, jax.Array] | None
  sampling: SamplingSpec
  progress: Callable[[int, int], None]
  times: int  # that each step is made

  @property
  def multistep(self) -> bool:
    return samplers.is_multistep(self.sampling.sampler)

  def turns(self) -> list[Turn]:
    return list(turns(step_inputs(self.stage, self.sampling), self.times))

  def step_noise(self, turn: Turn, shape: tuple[int, ...], **place: Any) -> jax.Array | None:
    """What a sampler adds in a step, if it adds noise."""
    return draw_noise(self.keys, shape, STEP, turn.draw, **place) if samplers.adds_noise(self.sampling.sampler) else None

  def tile_cond(self, tile: Tile, lowres: Callable[[], jax.Array]) -> Conditioning:
    """The conditioning of a tile."""
    cond = self.cond.replace(lowres=lowres()) if self.noised else self.cond
    if cond.given is None:
      return cond
    place = slices(tile.window)
    return cond.replace(given=(cond.given[0][place], cond.given[1][place[:2]]))


def _sample_whole(run: Run) -> np.ndarray:
  """All steps on the whole clip, which stays on the devices."""
  shape = run.stage.spec.output.array
  compiled = compiled_programs(compiled_stage(run.stage.spec), compiled_sampling(run.stage.spec, run.sampling))
  cond = run.cond.replace(lowres=compiled.grow(*run.noised)) if run.noised else run.cond
  z = draw_noise(run.keys, shape, INITIAL)
  state = SampleState(z=z, x_hat=jnp.zeros_like(z) if run.multistep else None)
  plan = run.turns()
  for n, turn in enumerate(plan):
    if turn.again:
      state = dataclasses.replace(state, z=back_up()(state.z, draw_noise(run.keys, shape, AGAIN, turn.draw), turn.inputs))
    state = jax.block_until_ready(compiled.step(run.params, state, cond, run.step_noise(turn, shape), turn.inputs))
    run.progress(n + 1, len(plan))
  return np.clip(np.asarray(state.z, np.float32), -1.0, 1.0)


def _sample_tiles(run: Run, tiling: Tiling, rows: Callable[[Any], jax.Array]) -> np.ndarray:
  """All steps, each tile by tile; the clip is changed in place as soon as no tile to come reads the old values."""
  assert run.sampling.threshold is not ThresholdKind.DYNAMIC, "a dynamic threshold looks at the whole clip (see stage_tiling)"
  output = run.stage.spec.output
  compiled = compiled_programs(compiled_stage(run.stage.spec), compiled_sampling(run.stage.spec, run.sampling))
  noisy, window = compiled.noised(*run.noised) if run.noised else None, compiled.window(tiling.window)
  clips = SampleState(z=_host_noise(run.keys, output.array, INITIAL))
  if run.multistep:
    clips = dataclasses.replace(clips, x_hat=np.zeros_like(clips.z))
  needed = [slab[0].origin[0] for slab in tiling.slabs[1:]] + [output.frames]  # the first frame that later slabs read
  plan, done = run.turns(), 0
  for turn in plan:
    if turn.again:
      clips.z[:] = back_up()(clips.z, _host_noise(run.keys, output.array, AGAIN, turn.draw), turn.inputs)
    waiting: list[_Piece] = []
    blended = jax.tree.map(np.zeros_like, clips) if tiling.weights else None
    for n, (slab, start) in enumerate(zip(tiling.slabs, needed, strict=True)):
      for tile in slab:
        origin = np.array(tile.origin, np.int32)
        cond = run.tile_cond(tile, lambda origin=origin: window(noisy, origin))
        noise = run.step_noise(turn, (*tiling.window, 3), origin=origin, aligned=False)
        state = jax.tree.map(rows, _part(clips, tile.window))
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
  """Adds a piece whose frames count by these weights. All tiles of a step start from one z_t, so this blends their x_hat."""
  for clip, values in zip(jax.tree.leaves(clips), jax.tree.leaves(piece.made), strict=True):
    clip[piece.place] += weights[:, None, None, None] * values


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


def _host_noise(keys: jax.Array, shape: tuple[int, int, int, int], stream: int, index: int = 0) -> np.ndarray:
  """[B, *shape] in host memory, drawn a few frames at a time."""
  z = np.empty((keys.shape[0], *shape), np.float32)
  depth = BLOCK[0]
  for first in range(0, shape[0], depth):
    frames = z[:, first : first + depth]
    drawn = draw_noise(keys, (depth, *shape[1:]), stream, index, origin=np.array([first, 0, 0], np.int32))
    frames[:] = np.asarray(drawn)[:, : frames.shape[1]]
  return z


def _part(clips: SampleState, spans: tuple[tuple[int, int], ...]) -> SampleState:
  place = slices(spans)
  return jax.tree.map(lambda clip: clip[place], clips)


def slices(spans: tuple[tuple[int, int], ...]) -> tuple[slice, ...]:
  """Index of a batch of clips [B, T, H, W, C]."""
  return (slice(None), *(slice(start, stop) for start, stop in spans))


def draw_noise(
  keys: jax.Array, shape: tuple[int, ...], stream: int, index: int = 0, *, origin: np.ndarray = ORIGIN, aligned: bool = True
) -> jax.Array:
  """[B, *shape], the draw that each sample's key makes for this stream and step, from `origin` of the clip on."""
  return noise_function(tuple(shape), aligned)(keys, np.array([stream, index], np.int32), origin)


def _rows_placement(mesh: Mesh | None, rows: int) -> Callable[[Any], jax.Array]:
  if mesh is None:
    return jax.device_put
  if rows % mesh.size:
    raise UserError(f"a batch of {rows} samples over {mesh.size} devices: expected a multiple of {mesh.size}")
  return lambda array: jax.device_put(array, sharding.batch_sharding(mesh))


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
