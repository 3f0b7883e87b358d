"""Stage: the only place where network, diffusion, conditioning and text embeddings meet."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax.core import meta

from ivid.diffusion import augment, distill, guidance, loss, process, samplers, schedule, threshold
from ivid.diffusion.distill import Teacher
from ivid.diffusion.keys import example_keys
from ivid.diffusion.samplers import SampleState, StepInputs
from ivid.nets import captions, second_way_up
from ivid.nets.inputs import Conditioning
from ivid.nets.unet import VideoUNet
from ivid.spec import batch as batches
from ivid.spec.sampling import SamplerKind, SamplingSpec
from ivid.spec.stage import LossWeight, StageSpec
from ivid.video import given as given_frames
from ivid.video import lowres as lowres_video

Batch = dict[str, jax.Array]  # ivid.spec.batch
# The random streams of a training example; each one's number is folded into the example's key.
_DROP, _EPS, _AUG_LEVEL, _AUG_NOISE, _GUIDANCE, _GIVEN = range(6)


class Stage:
  """The functions of one stage. A Stage holds no parameters: they are passed in and returned."""

  def __init__(self, spec: StageSpec):
    self.spec = spec
    self.net = VideoUNet(spec.unet)
    self.schedule = schedule.make_schedule(spec.diffusion)

  # Parameters.

  def init(self, key: jax.Array) -> Any:
    """Parameters, each boxed with its logical axis names (flax.linen.LogicallyPartitioned)."""
    frames = 1 if self.spec.lowres is None else self.spec.time_factor
    side = self.spec.unet.stride
    batch = batches.batch_spec(self.spec, batch_size=1, frames=frames, height=side, width=side, max_tokens=2)
    arrays = {name: jnp.zeros(a.shape, a.dtype) for name, a in batch.items()}
    x = jnp.zeros(batch[batches.VIDEO].shape, jnp.float32)
    cond = self.conditioning(arrays)
    if self.spec.lowres is not None:
      cond = cond.replace(lowres=jnp.zeros_like(x), aug_logsnr=jnp.zeros((1,)))
    if self.spec.unet.given:
      cond = cond.replace(given=(jnp.zeros_like(x), jnp.zeros(x.shape[:2], bool)))
    return self.net.init(key, x, jnp.zeros((1,)), **cond.network_inputs())["params"]

  def abstract_params(self) -> Any:
    """Shapes, dtypes and logical axes of the parameters; nothing is computed."""
    return _abstract_params(self.spec)

  # Conditioning.

  def conditioning(self, batch: Mapping[str, Any], *, pictures: bool = False) -> Conditioning:
    """What the network reads besides z_t and its level, taken from a batch (ivid.spec.batch). The low-resolution clip is added later.

    Args:
      pictures: True if no row is a video; time mixing is then not computed at all.
    """
    return Conditioning(
      text=batch[batches.TEXT],
      text_mask=batch[batches.TEXT_MASK],
      is_video=None if pictures else batch[batches.IS_VIDEO],
      fps=batch[batches.FPS],
    )

  def augmented(self, small: jax.Array, *, frames: int, height: int, width: int, logsnr: jax.Array, noise: jax.Array) -> jax.Array:
    """The low-resolution clip as the network reads it, both in training and in sampling (section 2.5).

    Args:
      small: [B, t, h, w, 3] in [-1, 1].
      frames, height, width: the size to enlarge it to.
      logsnr: [B] augmentation level.
      noise: like `small`, one standard normal draw per low-resolution value.

    Returns: [B, frames, height, width, C'].
    """
    return lowres_video.grow(
      self.noised(small, logsnr, noise), frames=frames, height=height, width=width, time_fill=self.spec.lowres.time_fill
    )

  def noised(self, small: jax.Array, logsnr: jax.Array, noise: jax.Array) -> jax.Array:
    """The small clip with its noise augmentation, before it is enlarged."""
    return augment.augment(lowres=small, logsnr=logsnr, noise=noise)

  def lowres_window(self, noisy: jax.Array, origin: jax.Array, window: tuple[int, int, int]) -> jax.Array:
    """The part of what `augmented` returns that starts at `origin` [3] and has the size `window`, made from the noised small clip."""
    output = self.spec.output
    sizes = dict(frames=output.frames, height=output.height, width=output.width)
    return lowres_video.grow_window(noisy, origin, window, **sizes, time_fill=self.spec.lowres.time_fill)

  # The denoiser.

  def predict(self, params: Any, z_t: jax.Array, logsnr_t: jax.Array, cond: Conditioning) -> jax.Array:
    """The network's raw output, in the spec's `prediction` space, float32 like z_t [B, T, H, W, 3]; logsnr_t [B]."""
    cond = cond if self.spec.unet.given else cond.replace(given=None)  # other networks see given frames only as a part of z_t
    return cast("jax.Array", self.net.apply({"params": params}, z_t, logsnr_t, **cond.network_inputs()))

  def denoise(self, params: Any, z_t: jax.Array, logsnr_t: jax.Array, cond: Conditioning) -> jax.Array:
    """x_hat [B, T, H, W, 3], neither guided nor thresholded; given frames are returned unchanged."""
    output = self.predict(params, z_t, logsnr_t, cond)
    x_hat = process.x_from_prediction(self.spec.diffusion.prediction, z_t=z_t, prediction=output, logsnr_t=logsnr_t)
    return given_frames.keep_given(x_hat, cond.given)

  def _classifier_free(self, params: Any, z_t: jax.Array, logsnr_t: jax.Array, cond: Conditioning, w: jax.Array) -> jax.Array:
    """(1 + w) x_cond - w x_uncond from one evaluation on 2B examples. The halves differ only in their text (given; negative or none)."""
    (text, mask), cond = cond.negative or (cond.text, None), cond.replace(negative=None)
    twice = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), cond, cond.replace(text=text))
    masks = jnp.concatenate([cond.text_mask, jnp.zeros_like(cond.text_mask) if mask is None else mask])
    both = self.denoise(params, jnp.concatenate([z_t, z_t]), jnp.concatenate([logsnr_t, logsnr_t]), twice.replace(text_mask=masks))
    x_cond, x_uncond = jnp.split(both, 2)
    return guidance.guided(x_cond=x_cond, x_uncond=x_uncond, w=w)

  def guided(self, params: Any, z_t: jax.Array, logsnr_t: jax.Array, cond: Conditioning, w: jax.Array | None) -> jax.Array:
    """x_hat at guidance weight w, [B] or scalar. A distilled stage needs one evaluation, any other two; if w is None, both need one."""
    if self.spec.student is not None:
      return self.denoise(params, z_t, logsnr_t, cond.replace(w=jnp.broadcast_to(jnp.float32(0.0 if w is None else w), z_t.shape[:1])))
    return self.denoise(params, z_t, logsnr_t, cond) if w is None else self._classifier_free(params, z_t, logsnr_t, cond, w)

  # Training.

  def loss(self, params: Any, batch: Batch, key: jax.Array, *, logsnr_std: float | None = None) -> tuple[jax.Array, jax.Array]:
    """The weighted denoising loss of each example, and the time or quantile that its noise level was drawn from.

    Args:
      params: unboxed parameters.
      batch: contents of ivid.spec.batch.
      key: of the run's loss stream. Each example folds in its index (example_keys), so its row and the number of devices do not matter.
      logsnr_std: if given, levels are normal with this deviation around diffusion.logsnr_shift; None: the schedule's levels at times u.

    Returns: (loss [B], u [B]), float32. u is uniform in [0, 1]; it is the diffusion time, or with `logsnr_std` the quantile of the level.
    """
    spec = self.spec
    x, cond, keys = self._training_inputs(batch, key)
    u = schedule.stratified_u(batch[batches.INDEX][:, 0], jax.random.uniform(key))
    logsnr = self.schedule(u) if logsnr_std is None else schedule.normal_logsnr(u, mean=spec.diffusion.logsnr_shift, std=logsnr_std)
    eps = _draw(keys, _EPS, x.shape[1:], normal=True)
    z_t = process.q_sample(x=x, eps=eps, logsnr=logsnr)
    output = self.predict(params, z_t, logsnr, cond)
    losses = loss.weighted_loss(
      kind=spec.diffusion.loss_weight,
      prediction=spec.diffusion.prediction,
      output=output,
      x=x,
      eps=eps,
      z_t=z_t,
      logsnr=logsnr,
      sigma_floor=spec.diffusion.sigma_floor,
      asked=given_frames.asked(cond.given),
    )
    return losses, u

  def distill_loss(
    self, params: Any, teacher: Teacher, batch: Batch, key: jax.Array, *, teacher_stage: Stage, loss_weight: LossWeight
  ) -> tuple[jax.Array, jax.Array]:
    """Weighted error against a frozen teacher; what the student learns is in this stage's `spec.student` (Imagen Video, section 2.7).

    Teacher and student see the same z_t, the same w and the same conditioning clip, which is made from the real clip and noised to any
    level of the full range. The teacher's x_hat is not clipped. A student that reads w is always given its text, because there is no
    guidance without text. While the student learns guidance, its error is weighted by 1 / (1 + w)^2.

    Args:
      teacher: its parameters, and the student's step count. The count is an array, so one compiled step serves all halvings.
      batch, key: as in `loss`.
      teacher_stage: this stage before distillation, or one phase of distillation earlier.

    Returns: (loss [B], u [B]), float32.
    """
    student = self.spec.student
    x, cond, keys = self._training_inputs(batch, key, drop_text=student.w_max == 0)
    w = student.w_min + (student.w_max - student.w_min) * _draw(keys, _GUIDANCE, ()) if student.w_max > 0 else None
    u = schedule.stratified_u(batch[batches.INDEX][:, 0], jax.random.uniform(key))
    if student.steps:
      times = distill.jump_times(u, teacher.steps, jump=2 if student.sampler is SamplerKind.STOCHASTIC else 1)
      u = times.t
    logsnr = self.schedule(u)
    z_t = process.q_sample(x=x, eps=_draw(keys, _EPS, x.shape[1:], normal=True), logsnr=logsnr)

    def teacher_x_hat(z: jax.Array, level: jax.Array) -> jax.Array:
      return teacher_stage.guided(teacher.params, z, level, cond, w)

    if student.steps:
      target = distill.two_step_target(
        teacher_x_hat,
        z_t=z_t,
        logsnr_t=logsnr,
        logsnr_mid=self.schedule(times.mid),
        logsnr_s=self.schedule(times.s),
        ends=times.s == 0.0,
      )
    else:
      target = teacher_x_hat(z_t, logsnr)
    if not student.steps:
      params = second_way_up.freeze_rest(params, self.spec.unet)
    output = self.predict(params, z_t, logsnr, cond.replace(w=jnp.zeros_like(logsnr) if w is None else w))
    losses = loss.weighted_loss(
      kind=loss_weight,
      prediction=self.spec.diffusion.prediction,
      output=output,
      x=jax.lax.stop_gradient(target),
      eps=None,
      z_t=z_t,
      logsnr=logsnr,
      sigma_floor=self.spec.diffusion.sigma_floor,
      asked=given_frames.asked(cond.given),
    )
    return losses if student.steps or w is None else losses / jnp.square(1.0 + w), u

  def teaching_error(
    self, params: Any, teacher: Any, batch: Batch, key: jax.Array, *, w: jax.Array, u: jax.Array, teacher_stage: Stage
  ) -> tuple[jax.Array, ...]:
    """How far a guidance-distilled x_hat is from its teacher's at guidance weight w and diffusion time u, each a scalar or [B].

    Args: params, teacher: parameters of this stage and of `teacher_stage`; batch, key: as in `loss`.
    Returns: squared norms, float32 [B], of the difference, of the teacher's x_hat, and of what guidance adds to it.
    """
    x, cond, keys = self._training_inputs(batch, key, drop_text=False)
    logsnr = jnp.broadcast_to(self.schedule(u), x.shape[:1])
    z_t = process.q_sample(x=x, eps=_draw(keys, _EPS, x.shape[1:], normal=True), logsnr=logsnr)
    target = teacher_stage.guided(teacher, z_t, logsnr, cond, w)
    difference = self.guided(params, z_t, logsnr, cond, w) - target
    added = target - teacher_stage.guided(teacher, z_t, logsnr, cond, None)
    return tuple(jnp.sum(jnp.square(part), axis=tuple(range(1, x.ndim))) for part in (difference, target, added))

  def _training_inputs(self, batch: Batch, key: jax.Array, *, drop_text: bool = True) -> tuple[jax.Array, Conditioning, jax.Array]:
    """Clips [B, T, H, W, 3] in [-1, 1], their conditioning, with text dropped and frames given at random, and each example's key."""
    x = batch[batches.VIDEO].astype(jnp.float32) / 127.5 - 1.0
    keys = example_keys(key, batch[batches.INDEX])
    pictures = batches.holds_pictures(x.shape[1])
    cond = self.conditioning(batch, pictures=pictures)
    if drop_text:
      drop = captions.per_caption(_draw(keys, _DROP, ()) < self.spec.diffusion.text_drop, cond.text, frames=x.shape[1])
      cond = cond.replace(text_mask=cond.text_mask & ~drop[:, :, None])
    if self.spec.unet.given and not pictures:
      drawn: dict[str, Any] = dict(draw=_draw(keys, _GIVEN, ()), share=self.spec.diffusion.given_share)
      cond = cond.replace(given=(x, given_frames.draw_given(is_video=cond.is_video, frames=x.shape[1], **drawn)))  # pyright: ignore[reportArgumentType]  None for pictures alone
    return x, cond if self.spec.lowres is None else self._training_lowres(cond, x, keys), keys

  def _training_lowres(self, cond: Conditioning, x: jax.Array, keys: jax.Array) -> Conditioning:
    """Adds the low-resolution clip, made from the real one and noised to a random level. A packed picture gets its own small picture."""
    lowres, output, (B, T, H, W, _) = self.spec.lowres, self.spec.output, x.shape
    logsnr = lowres.aug_logsnr_min + (lowres.aug_logsnr_max - lowres.aug_logsnr_min) * _draw(keys, _AUG_LEVEL, ())

    def seen(small: jax.Array) -> jax.Array:
      noise = _draw(keys, _AUG_NOISE, small.shape[1:], normal=True)
      return self.augmented(small, frames=T, height=H, width=W, logsnr=logsnr, noise=noise)

    grown = seen((lowres_video.shrink_pictures if cond.is_video is None else lowres_video.shrink)(x, lowres, output))  # pyright: ignore[reportArgumentType]  a stage with a low-resolution clip
    if self.spec.time_factor > 1 and batches.CaptionLayout.of(cond.text.shape[:2], batch_size=B, frames=T).images:
      pictures = seen(lowres_video.shrink_pictures(x, lowres, output))  # pyright: ignore[reportArgumentType]  a stage with a low-resolution clip
      grown = jnp.where(cond.is_video[:, None, None, None, None], grown, pictures)
    return cond.replace(lowres=grown, aug_logsnr=logsnr)

  # Sampling.

  def sample_step(
    self, params: Any, state: SampleState, cond: Conditioning, noise: jax.Array, step: StepInputs, sampling: SamplingSpec
  ) -> SampleState:
    """One step of the sampler on one batch of clips (or tiles).

    Args:
      noise: like state.z; only samplers that add noise read it.
      sampling: static. Guidance of weight 0 that does not oscillate needs no unconditional evaluation, nor does a distilled stage.
    """
    logsnr_t = jnp.broadcast_to(step.logsnr_t, state.z.shape[:1])
    w = step.w if self.spec.student is not None or evaluations_per_step(self.spec, sampling) > 1 else None
    x_hat = self.guided(params, state.z, logsnr_t, cond, w)
    x_hat = threshold.threshold(x_hat, sampling.threshold, sampling.percentile)
    x_hat = given_frames.keep_given(x_hat, cond.given)  # guidance and thresholds have moved them
    return samplers.sampler_step(sampling, state, x_hat, step=step, noise=noise)


@functools.lru_cache(maxsize=64)
def _abstract_params(spec: StageSpec) -> Any:
  """Cached per spec: tracing a network takes seconds, and a run asks for it several times."""
  return jax.eval_shape(Stage(spec).init, jax.random.key(0))


def evaluations_per_step(spec: StageSpec, sampling: SamplingSpec) -> int:
  """Network evaluations per clip and sampler step: 2 if guidance needs one without text, else 1."""
  guided = sampling.guidance.weight != 0.0 or bool(sampling.guidance.low)
  return 2 if guided and spec.student is None else 1


def unbox(params: Any) -> Any:
  """Parameters without their logical axis names."""
  return meta.unbox(params)


def _draw(keys: jax.Array, stream: int, shape: tuple[int, ...], *, normal: bool = False) -> jax.Array:
  """One draw of `shape` per example key, either standard normal or uniform in [0, 1)."""
  sampler = jax.random.normal if normal else jax.random.uniform
  return jax.vmap(lambda key: sampler(jax.random.fold_in(key, stream), shape))(keys)
