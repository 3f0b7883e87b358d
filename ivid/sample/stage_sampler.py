"""Sampling one stage: the Python loop over the steps of one compiled step (Imagen Video, sections 2.1 and 2.5)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ivid.diffusion import augment, guidance, samplers
from ivid.parallel import sharding
from ivid.programs import Program
from ivid.spec.stage import GuidanceSpec, SamplerKind, SamplingSpec, StageSpec
from ivid.stage import Conditioning, SampleState, Stage, StepInputs, needs_guidance, unbox
from ivid.video.noise import block_noise

# Names of the streams a sample draws from; folded into its key.
_INITIAL, _AUGMENT, _STEP = range(3)


def make_noise_program(shape: tuple[int, ...], args: tuple[Any, ...] = ()) -> Program:
  """(keys [B], names int32 [2]) -> [B, *shape] standard normal, a function of each key, the names and the place in the clip.

  A program of its own, so that all draws of one size share it: a stage's input is noised with the program of the stage before.
  """

  def noise(keys, names):
    named = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, names[0]), names[1]))(keys)
    return jax.vmap(lambda key: block_noise(key, shape=shape))(named)

  return Program("noise_" + "x".join(map(str, shape)), noise, args)


def make_lowres_program(stage: Stage, args: tuple[Any, ...] = ()) -> Program:
  """(small [B, t, h, w, 3], aug_logsnr [B], noise like small) -> the augmented low-resolution clip at the output's size."""
  output = stage.spec.output

  def lowres(small, aug_logsnr, noise):
    size = dict(frames=output.frames, height=output.height, width=output.width)
    return stage.augmented(small, logsnr=aug_logsnr, noise=noise, **size)

  return Program(f"sample_lowres_{stage.spec.name}", lowres, args)


def make_sample_program(stage: Stage, sampling: SamplingSpec, args: tuple[Any, ...] = ()) -> Program:
  """One step of the sampler: (params, SampleState, Conditioning, noise, StepInputs) -> SampleState. `args`: see sample_args.

  `noise` is [B, T, H, W, 3] for the ancestral sampler and None for the others, which draw none.
  """

  def step(params, state, cond, noise, inputs):
    return stage.sample_step(params, state, cond, noise, inputs, sampling)

  return Program(f"sample_{stage.spec.name}", step, args, donate=(1,))


def sample_args(stage: Stage, sampling: SamplingSpec, *, batch_size: int, max_tokens: int, params: Any = None) -> tuple[Any, ...]:
  """Abstract arguments of make_sample_program; `params` if the caller has (sharded) ones."""
  spec, b = stage.spec, batch_size

  def shaped(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))

  clip, lowres = shaped(b, *spec.output.array), spec.lowres is not None
  cond = Conditioning(
    text=shaped(b, 1, max_tokens, spec.unet.text_dim, dtype="bfloat16"),
    text_mask=shaped(b, 1, max_tokens, dtype="bool"),
    is_video=shaped(b, dtype="bool"),
    fps=shaped(b),
    lowres=clip if lowres else None,
    aug_logsnr=shaped(b) if lowres else None,
  )
  noise = clip if sampling.sampler is SamplerKind.ANCESTRAL else None
  step = StepInputs(logsnr_t=shaped(), logsnr_s=shaped(), logsnr_prev=shaped(), w=shaped(), last=shaped(dtype="bool"))
  params = unbox(stage.abstract_params()) if params is None else params
  return params, SampleState(z=clip, x_hat=clip), cond, noise, step


def place_params(stage: Stage, params: Any, mesh: Mesh | None = None) -> Any:
  """Parameters on the default device, or over the mesh by their logical axes. No copy of what is already there."""
  if mesh is None:
    return jax.device_put(params)
  return jax.device_put(params, _param_shardings(stage.spec, mesh))


def sample_stage(
  stage: Stage,
  params: Any,
  *,
  keys: jax.Array,
  text: Any,
  text_mask: Any,
  sampling: SamplingSpec,
  small: Any = None,
  progress: Callable[[int, int], None] | None = None,
  mesh: Mesh | None = None,
) -> np.ndarray:
  """Clips [B, T, H, W, 3] float32 in [-1, 1], at the stage's output size.

  A clip depends on its own key, text and input alone, up to float32 rounding: not on its place in the batch, the batch's size, or the mesh.

  Args:
    params: unboxed parameters.
    keys: [B] typed keys.
    text: [B, K, L, D]; K = 1.
    text_mask: [B, K, L] bool.
    small: [B, t, h, w, 3] in [-1, 1], clips at the stage's input size; None in the base.
    progress: called with (steps done, steps) after each step.
    mesh: devices that share the batch.

  Raises:
    ValueError: `small` missing, superfluous or of another size than the stage's input; a batch that the mesh does not divide.
  """
  spec = stage.spec
  B = keys.shape[0]
  _check_small(spec, small)
  rows = _rows_placement(mesh, B)
  grow, step = _compiled(_function(spec), _static(sampling))
  keys, lowres, aug_logsnr = rows(keys), None, None
  if spec.lowres is not None:
    aug_logsnr = rows(np.full(B, augment.logsnr_from_snr(spec.lowres.aug_snr), np.float32))
    small = rows(np.asarray(small, np.float32))
    lowres = grow(small, aug_logsnr, _noise(keys, small.shape[1:], _AUGMENT))
  cond = Conditioning(
    text=rows(text),
    text_mask=rows(text_mask),
    is_video=rows(np.ones(B, bool)),
    fps=rows(np.full(B, spec.output.fps, np.float32)),
    lowres=lowres,
    aug_logsnr=aug_logsnr,
  )
  params = place_params(stage, params, mesh)
  z = _noise(keys, spec.output.array, _INITIAL)
  state = SampleState(z=z, x_hat=jnp.zeros_like(z))
  ancestral = sampling.sampler is SamplerKind.ANCESTRAL
  for i, inputs in enumerate(step_inputs(stage, sampling)):
    noise = _noise(keys, spec.output.array, _STEP, i) if ancestral else None
    state = step(params, state, cond, noise, inputs)
    if progress is not None:
      jax.block_until_ready(state)
      progress(i + 1, sampling.steps)
  return np.clip(np.asarray(state.z, np.float32), -1.0, 1.0)


def step_inputs(stage: Stage, sampling: SamplingSpec) -> list[StepInputs]:
  """Scalars of every step, in the order they run."""
  logsnr = np.asarray(stage.schedule(samplers.time_grid(sampling.steps)), np.float32)
  weights = guidance.guidance_weights(sampling.guidance, sampling.steps)
  return [
    StepInputs(
      logsnr_t=logsnr[i],
      logsnr_s=logsnr[i + 1],
      logsnr_prev=logsnr[max(i - 1, 0)],
      w=np.float32(weights[i]),
      last=np.bool_(i == sampling.steps - 1),
    )
    for i in range(sampling.steps)
  ]


def _static(sampling: SamplingSpec) -> SamplingSpec:
  """What of `sampling` the compiled step depends on: step count and guidance weights are its inputs, but for having any."""
  weight = 1.0 if needs_guidance(sampling) else 0.0
  return SamplingSpec(
    sampler=sampling.sampler,
    steps=1,
    gamma=sampling.gamma,
    guidance=GuidanceSpec(weight=weight),
    threshold=sampling.threshold,
    percentile=sampling.percentile,
  )


def _function(spec: StageSpec) -> StageSpec:
  """The stage without what its compiled programs take as inputs or never read."""
  lowres = spec.lowres and dataclasses.replace(spec.lowres, aug_snr=1.0)
  return dataclasses.replace(spec, lowres=lowres, sampling=SamplingSpec(), text_encoder="")


@functools.lru_cache(maxsize=32)
def _compiled(spec: StageSpec, sampling: SamplingSpec) -> tuple[Callable[..., Any], Callable[..., Any]]:
  stage = Stage(spec)
  return make_lowres_program(stage).jit(), make_sample_program(stage, sampling).jit()


@functools.lru_cache(maxsize=32)
def _compiled_noise(shape: tuple[int, ...]) -> Callable[..., jax.Array]:
  return make_noise_program(shape).jit()


@functools.lru_cache(maxsize=32)
def _param_shardings(spec: StageSpec, mesh: Mesh) -> Any:
  return sharding.param_shardings(mesh, Stage(spec).abstract_params())


def _noise(keys: jax.Array, shape: tuple[int, ...], stream: int, index: int = 0) -> jax.Array:
  """[B, *shape], the draw that each sample's key makes for this stream and step."""
  return _compiled_noise(tuple(shape))(keys, np.array([stream, index], np.int32))


def _rows_placement(mesh: Mesh | None, rows: int) -> Callable[[Any], jax.Array]:
  if mesh is None:
    return jax.device_put
  if rows % mesh.size:
    raise ValueError(f"a batch of {rows} samples over {mesh.size} devices: expected a multiple of {mesh.size}")
  return lambda array: jax.device_put(array, sharding.batch_sharding(mesh))


def _check_small(spec: StageSpec, small: Any) -> None:
  if spec.lowres is None:
    if small is not None:
      raise ValueError(f"stage {spec.name} is a base and takes no input clip")
    return
  if small is None:
    raise ValueError(f"stage {spec.name} needs an input clip of {spec.lowres.input}")
  t, h, w = small.shape[1:4]
  want = spec.lowres.input
  if (t, h, w) != (want.frames, want.height, want.width):
    raise ValueError(f"input clip of {t}x{h}x{w}: stage {spec.name} takes {want.frames}x{want.height}x{want.width}")
