"""The Programs that sample a stage, their arguments, and which runs share them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ivid.diffusion import guidance, samplers
from ivid.diffusion.samplers import SampleState, StepInputs
from ivid.parallel import sharding
from ivid.programs import Program
from ivid.sample.kept import KeptProgram
from ivid.spec import batch as batches
from ivid.spec.sampling import GuidanceSpec, SamplingSpec, StudentSpec
from ivid.spec.stage import StageSpec
from ivid.stage import Stage, evaluations_per_step, unbox
from ivid.video.noise import BLOCK, block_noise


class Compiled(NamedTuple):
  """Jitted programs of a stage: grow and step for whole clips; noised, window (per size of tile) and tile_step for tiles."""

  grow: Callable[..., jax.Array]
  noised: Callable[..., jax.Array]
  window: Callable[[tuple[int, int, int]], Callable[..., jax.Array]]
  step: Callable[..., SampleState]
  tile_step: Callable[..., SampleState]


def make_noise_program(
  shape: tuple[int, ...], args: tuple[Any, ...] = (), *, aligned: bool = True, placed: NamedSharding | None = None
) -> Program:
  """(keys [B], names int32 [2], origin int32 [3]) -> [B, *shape] standard normal: a function of key, names and place in the clip.

  This is a separate program so that all draws of one size share it: a stage's input is noised with the program of the previous stage.
  `aligned`: origins are multiples of ivid.video.noise.BLOCK. `placed`: how the draw is spread over devices (ivid.parallel.sharding); each
  device draws its own part, and the values stay the same.
  """
  name = "noise_" + "x".join(map(str, shape))

  def noise(keys, names, origin, shape=shape, aligned=aligned):
    named = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, names[0]), names[1]))(keys)
    return jax.vmap(lambda key: block_noise(key, shape=shape, origin=tuple(origin), aligned=aligned))(named)

  if placed is None:
    return Program(name, noise, args)
  mesh, (rows, *cut) = placed.mesh, placed.spec
  whole = [0] * (3 - len(cut))  # indices along those axes of a clip that are not cut
  parts = np.array([mesh.shape[axis] for axis in cut] + [1 for _ in whole])
  part = np.array(shape[:3]) // parts
  on_grid = aligned and not (part % BLOCK)[parts > 1].any()

  def noise_of_part(keys, names, origin):
    index = jnp.array([jax.lax.axis_index(axis) for axis in cut] + whole)
    return noise(keys, names, origin + index * part, (*part.tolist(), shape[3]), on_grid)

  specs = (PartitionSpec(rows), PartitionSpec(), PartitionSpec())
  fn = jax.shard_map(noise_of_part, mesh=mesh, in_specs=specs, out_specs=placed.spec)
  return Program(name, fn, args, out_shardings=placed, mesh=mesh)  # pyright: ignore[reportArgumentType]  placed on a mesh of devices


def make_lowres_program(stage: Stage, args: tuple[Any, ...] = (), *, mesh: Mesh | None = None) -> Program:
  """(small [B, t, h, w, 3], aug_logsnr [B], noise like small) -> the augmented low-resolution clip at the output's size."""
  output = stage.spec.output

  def lowres(small, aug_logsnr, noise):
    size = dict(frames=output.frames, height=output.height, width=output.width)
    return stage.augmented(small, logsnr=aug_logsnr, noise=noise, **size)

  return Program(f"sample_lowres_{stage.spec.name}", lowres, args, out_shardings=mesh and sharding.clip_sharding(mesh), mesh=mesh)


def make_window_program(stage: Stage, window: tuple[int, int, int], args: tuple[Any, ...] = ()) -> Program:
  """(noised small clip [B, t, h, w, 3], origin int32 [3]) -> the part of the conditioning clip that a tile of sizes `window` reads."""
  return Program(f"sample_window_{stage.spec.name}", lambda noisy, origin: stage.lowres_window(noisy, origin, window), args)


def make_sample_program(
  stage: Stage, sampling: SamplingSpec, args: tuple[Any, ...] = (), *, donate: bool = True, mesh: Mesh | None = None
) -> Program:
  """One step of the sampler on a clip or a tile: (params, SampleState, Conditioning, noise, StepInputs) -> SampleState.

  Sampling runs the same program that `ivid compile` lowers; with a mesh, its arguments are placed as in sample_args. `noise` is [B, T, H,
  W, 3] for samplers that add noise and None for the others. `args`: see sample_args. `donate`: the state's memory becomes the result's.
  """

  stage, sampling = Stage(compiled_stage(stage.spec)), compiled_sampling(stage.spec, sampling)

  def step(params, state, cond, noise, inputs):
    return stage.sample_step(params, state, cond, noise, inputs, sampling)

  fn, name, donated = step if mesh is None else sharding.pinned(step), f"sample_{stage.spec.name}", (1,) if donate else ()
  return Program(name, fn, args, out_shardings=mesh and sharding.clip_sharding(mesh), donate=donated, mesh=mesh)


def sample_args(
  stage: Stage,
  sampling: SamplingSpec,
  *,
  batch_size: int,
  max_tokens: int,
  params: Any = None,
  window: tuple[int, int, int] | None = None,
  mesh: Mesh | None = None,
) -> tuple[Any, ...]:
  """Abstract arguments of make_sample_program; `params`: the caller's own (sharded) ones; `window`: a tile instead of the whole clip.

  With a mesh they carry their shardings: parameters by their logical axes, clips by rows of the batch, frames and rows of pixels.
  """
  spec, b = stage.spec, batch_size
  clips, rows = (sharding.clip_sharding(mesh), sharding.batch_sharding(mesh)) if mesh else (None, None)

  def shaped(*shape, dtype="float32", placed=rows):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=placed)

  def scalar(dtype="float32"):
    return shaped(dtype=dtype, placed=None)  # stays on the host

  sizes = spec.output.array if window is None else (*window, 3)
  clip, lowres = shaped(b, *sizes, placed=clips), spec.lowres is not None
  told: dict[str, Any] = {
    batches.TEXT: shaped(b, 1, max_tokens, spec.unet.text_dim, dtype="bfloat16"),
    batches.TEXT_MASK: shaped(b, 1, max_tokens, dtype="bool"),
    batches.IS_VIDEO: shaped(b, dtype="bool"),
    batches.FPS: shaped(b),
  }
  cond = stage.conditioning(told, pictures=batches.holds_pictures(spec.output.frames))
  cond = cond.replace(lowres=clip, aug_logsnr=shaped(b)) if lowres else cond
  noise = clip if samplers.adds_noise(sampling.sampler) else None
  levels: dict[str, Any] = {name: scalar() for name in ("logsnr_t", "logsnr_s", "logsnr_prev", "logsnr_jump", "w")}
  step = StepInputs(**levels, last=scalar("bool"))
  if params is None:
    params = unbox(stage.abstract_params())
    params = params if mesh is None else sharding.with_shardings(params, param_shardings(spec, mesh))
  return params, SampleState(z=clip, x_hat=clip if samplers.is_multistep(sampling.sampler) else None), cond, noise, step


def step_inputs(stage: Stage, sampling: SamplingSpec) -> list[StepInputs]:
  """The scalars of every step, in the order in which the steps run."""
  logsnr = np.asarray(stage.schedule(samplers.time_grid(sampling.steps)), np.float32)
  weights = guidance.guidance_weights(sampling.guidance, sampling.steps)
  return [
    StepInputs(
      logsnr_t=logsnr[i],
      logsnr_s=logsnr[i + 1],
      logsnr_prev=logsnr[max(i - 1, 0)],
      logsnr_jump=logsnr[min(i + 2, sampling.steps)],
      w=np.float32(weights[i]),
      last=np.bool_(i == sampling.steps - 1),
    )
    for i in range(sampling.steps)
  ]


def compiled_sampling(spec: StageSpec, sampling: SamplingSpec) -> SamplingSpec:
  """The part of `sampling` on which the compiled step depends. Step count and guidance weights are inputs, but not whether w is 0."""
  weight = 1.0 if evaluations_per_step(spec, sampling) > 1 else 0.0
  return SamplingSpec(
    sampler=sampling.sampler,
    steps=1,
    gamma=sampling.gamma,
    guidance=GuidanceSpec(weight=weight),
    threshold=sampling.threshold,
    percentile=sampling.percentile,
  )


def compiled_stage(spec: StageSpec) -> StageSpec:
  """The stage without what its compiled programs take as inputs or never read."""
  lowres = spec.lowres and dataclasses.replace(spec.lowres, aug_snr=1.0)
  student = spec.student and StudentSpec(teacher="")  # the function only depends on whether it reads w
  return dataclasses.replace(spec, lowres=lowres, sampling=SamplingSpec(), text_encoder="", student=student)


@functools.lru_cache(maxsize=32)
def compiled_programs(spec: StageSpec, sampling: SamplingSpec, mesh: Mesh | None = None) -> Compiled:
  stage, made_from = Stage(spec), f"{spec} {sampling}"
  return Compiled(
    grow=_callable(make_lowres_program(stage, mesh=mesh), made_from),
    noised=_callable(Program(f"sample_noised_{spec.name}", stage.noised, mesh=mesh), made_from),
    window=functools.lru_cache(maxsize=8)(lambda window: KeptProgram(make_window_program(stage, window), f"{made_from} {window}")),
    step=_callable(make_sample_program(stage, sampling, mesh=mesh), made_from, like=1),
    # The inputs of a tile may be the host's own memory, in which nothing may be written.
    tile_step=_callable(make_sample_program(stage, sampling, donate=False, mesh=mesh), made_from, like=1),
  )


def _callable(program: Program, made_from: str, *, like: int | None = None) -> Callable[..., Any]:
  """The function to call from anywhere: it sets the program's mesh itself. Programs without a mesh are kept on disk."""
  if program.mesh is None:
    return KeptProgram(program, made_from, like=like)
  call = program.jit()

  def on_mesh(*args: Any) -> Any:
    with jax.set_mesh(program.mesh):
      return call(*args)

  return on_mesh


@functools.lru_cache(maxsize=32)
def noise_function(shape: tuple[int, ...], aligned: bool, placed: NamedSharding | None = None) -> Callable[..., jax.Array]:
  return _callable(make_noise_program(shape, aligned=aligned, placed=placed), f"{aligned}")


@functools.lru_cache(maxsize=32)
def param_shardings(spec: StageSpec, mesh: Mesh) -> Any:
  return sharding.param_shardings(mesh, Stage(spec).abstract_params())
