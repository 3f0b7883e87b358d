"""What all steps in the sampling of one stage share: parameters, conditioning, noise, and their placement on devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ivid.diffusion import augment, samplers
from ivid.nets.inputs import Conditioning
from ivid.parallel import sharding
from ivid.sample.programs import (
  Compiled,
  compiled_programs,
  compiled_sampling,
  compiled_stage,
  noise_function,
  param_shardings,
  step_inputs,
)
from ivid.sample.resampling import Turn, turns
from ivid.sample.tiling import Tile
from ivid.spec import batch as batches
from ivid.spec.sampling import SamplingSpec
from ivid.stage import Stage, evaluations_per_step

# Names of the random streams of a sample, which are folded into its key.
INITIAL, AUGMENT, STEP, AGAIN = range(4)
ORIGIN = np.zeros(3, np.int32)


class Placement(NamedTuple):
  """Places arrays on the devices: by rows of the batch and, for clips, also by frames and rows of pixels."""

  rows: Callable[[Any], jax.Array]
  clips: Callable[[Any], jax.Array]


class Run(NamedTuple):
  """What all steps share; `noised`: the small clip, its level and its noise."""

  stage: Stage
  params: Any
  keys: jax.Array
  cond: Conditioning
  noised: tuple[jax.Array, jax.Array, jax.Array] | None
  sampling: SamplingSpec
  progress: Callable[[int, int], None]
  mesh: Mesh | None
  place: Placement
  times: int  # number of times that each step is made

  @property
  def compiled(self) -> Compiled:
    return compiled_programs(compiled_stage(self.stage.spec), compiled_sampling(self.stage.spec, self.sampling), self.mesh)

  @property
  def multistep(self) -> bool:
    return samplers.is_multistep(self.sampling.sampler)

  def turns(self) -> list[Turn]:
    return list(turns(step_inputs(self.stage, self.sampling), self.times))

  def step_noise(self, turn: Turn, shape: tuple[int, ...], **place: Any) -> jax.Array | None:
    """The noise that a sampler adds in a step, if it adds any."""
    if not samplers.adds_noise(self.sampling.sampler):
      return None
    return draw_noise(self.keys, shape, STEP, turn.draw, mesh=self.mesh, **place)

  def tile_cond(self, tile: Tile, lowres: Callable[[], jax.Array]) -> Conditioning:
    """The conditioning of a tile."""
    cond = self.cond.replace(lowres=lowres()) if self.noised else self.cond
    if cond.given is None:
      return cond
    place = slices(tile.window)
    return cond.replace(given=(cond.given[0][place], cond.given[1][place[:2]]))


def start_run(
  stage: Stage,
  params: Any,
  *,
  keys: jax.Array,
  text: Any,
  text_mask: Any,
  sampling: SamplingSpec,
  given: tuple[Any, Any] | None = None,
  negative: tuple[Any, Any] | None = None,
  progress: Callable[[int, int], None] | None = None,
  mesh: Mesh | None = None,
  times: int = 1,
) -> Run:
  """What all steps of sample_stage share, without the small clip.

  Args:
    times: number of times that each step is made.
  """
  spec, B, (rows, clips) = stage.spec, keys.shape[0], (place := _placement(mesh))
  keys = rows(keys)
  told: dict[str, Any] = {
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
  if spec.lowres is not None:
    cond = cond.replace(aug_logsnr=rows(np.full(B, augment.logsnr_from_snr(spec.lowres.aug_snr), np.float32)))
  placed = place_params(stage, params, mesh)
  return Run(stage, placed, keys, cond, None, sampling, progress or (lambda *_: None), mesh, place, times)


def place_params(stage: Stage, params: Any, mesh: Mesh | None = None) -> Any:
  """Parameters on the default device, or spread over the mesh by their logical axes. What is already there is not copied."""
  if mesh is None:
    return jax.device_put(params)
  return jax.device_put(params, param_shardings(stage.spec, mesh))


def draw_noise(
  keys: jax.Array,
  shape: tuple[int, ...],
  stream: int,
  index: int = 0,
  *,
  origin: np.ndarray = ORIGIN,
  aligned: bool = True,
  mesh: Mesh | None = None,
) -> jax.Array:
  """[B, *shape]: what each sample's key draws for this stream and step, starting at `origin` of the clip."""
  placed = None if mesh is None else sharding.clip_sharding(mesh, (keys.shape[0], *shape))
  return noise_function(tuple(shape), aligned, placed)(keys, np.array([stream, index], np.int32), origin)


def slices(spans: tuple[tuple[int, int], ...]) -> tuple[slice, ...]:
  """Index of a batch of clips [B, T, H, W, C]."""
  return (slice(None), *(slice(start, stop) for start, stop in spans))


def _placement(mesh: Mesh | None) -> Placement:
  if mesh is None:
    return Placement(jax.device_put, jax.device_put)
  rows = sharding.batch_sharding(mesh)
  return Placement(
    rows=lambda array: jax.device_put(array, rows), clips=lambda clip: jax.device_put(clip, sharding.clip_sharding(mesh, clip.shape))
  )
