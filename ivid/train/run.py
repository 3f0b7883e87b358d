"""Builds a training run from its spec: mesh, state in its shards, Programs, batches, evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from ivid.diffusion.distill import Teacher
from ivid.diffusion.loss import logsnr_buckets
from ivid.flops import count_flops
from ivid.nets.second_way_up import learning
from ivid.parallel import distributed, sharding
from ivid.programs import Program
from ivid.spec import batch as batches
from ivid.spec.errors import UserError
from ivid.spec.run import TrainSpec
from ivid.spec.stage import LossWeight, StageSpec
from ivid.spec.view import make_view
from ivid.stage import Stage, unbox
from ivid.steps import TrainState, distill_step, eval_step, init_state, train_step
from ivid.train import phases
from ivid.train.optimizer import make_optimizer
from ivid.train.rngs import stream
from ivid.weights.averages import exponent

# embed(captions) -> (embeddings [N, L, D] bfloat16, mask [N, L] bool)
EmbedFn = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Training:
  """Everything in the run of one stage that does not change with the step.

  Attributes:
    state: abstract TrainState with shardings.
    batch: abstract batch (ivid.spec.batch) with shardings.
    init: Program: key -> TrainState, created directly in its shards.
    step: Program: (state, batch, key) -> (state, metrics); in a distillation, its arguments are (state, teacher, batch, key).
    evaluate: Program: (ema, batch, key) -> (loss [B], u [B]); in a distillation, its arguments are (ema, teacher, batch, key).
  """

  stage: Stage
  mesh: Mesh
  state: TrainState
  batch: dict[str, jax.ShapeDtypeStruct]
  init: Program
  step: Program
  evaluate: Program


@dataclasses.dataclass(frozen=True)
class Lesson:
  """What makes a run a distillation: the stage that teaches, and the weight on the squared error of x."""

  teacher: StageSpec
  loss_weight: LossWeight


def make_training(
  spec: StageSpec, train: TrainSpec, mesh: Mesh, *, max_tokens: int, lesson: Lesson | None = None, rate: optax.Schedule | None = None
) -> Training:
  """The Programs of a run or of one of its phases: of training, or with a `lesson` of distillation, with `spec` as the student.

  Args:
    train: the spec of the phase (ivid.train.phases.Phase.train).
    rate: learning rate per update; None: that of a run that consists of this phase only.

  Raises:
    UserError: a batch, crop or number of frames does not fit the stage or the mesh.
  """
  shape = check_train(spec, train, mesh)
  stage = Stage(noised_as(spec, train))
  boxed = stage.abstract_params()
  optimizer = make_optimizer(train.optimizer, rate=rate or phases.learning_rate(phases.resolve(train)), boxed=boxed)
  params = unbox(boxed)
  if lesson is not None and not spec.student.steps:  # what has no gradient must keep its value, despite weight decay
    optimizer = optax.chain(optimizer, optax.masked(optax.set_to_zero(), jax.tree.map(operator.not_, learning(params, spec.unet))))
  shardings = sharding.param_shardings(mesh, boxed)
  state_shardings = TrainState(
    step=sharding.replicated(mesh),
    params=shardings,
    ema=shardings,
    opt_state=sharding.optimizer_shardings(mesh, optimizer, params, shardings),
    averages=(shardings,) * len(train.ema_widths),
  )

  def init(key: jax.Array) -> TrainState:
    return init_state(unbox(stage.init(key)), optimizer, averages=len(train.ema_widths))

  abstract = sharding.with_shardings(jax.eval_shape(init, jax.random.key(0)), state_shardings)
  rows = sharding.batch_sharding(mesh)
  arrays = batches.batch_spec(
    spec, batch_size=train.batch_size, max_tokens=max_tokens, captions=_caption_layout(train, mesh), **_sizes(shape)
  )
  batch = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=rows) for name, a in arrays.items()}
  key = jax.eval_shape(lambda: jax.random.key(0))
  update = dict(optimizer=optimizer, ema_decay=train.ema_decay, accumulation=train.accumulation)
  update |= dict(exponents=tuple(exponent(width) for width in train.ema_widths))
  if lesson is None:
    name, teacher_args = "train", ()
    step = functools.partial(train_step, loss_fn=functools.partial(stage.loss, logsnr_std=train.logsnr_std), **update)
    evaluate = functools.partial(eval_step, loss_fn=stage.loss)
  else:
    told = Stage(lesson.teacher).abstract_params()  # sharded like the student's
    told = sharding.with_shardings(unbox(told), sharding.param_shardings(mesh, told))
    name, teacher_args = "distill", (Teacher(told, jax.ShapeDtypeStruct((), np.float32)),)
    loss_fn = functools.partial(stage.distill_loss, teacher_stage=Stage(lesson.teacher), loss_weight=lesson.loss_weight)
    step, evaluate = functools.partial(distill_step, loss_fn=loss_fn, **update), loss_fn
  return Training(
    stage=stage,
    mesh=mesh,
    state=abstract,
    batch=batch,
    init=Program("init", init, (key,), out_shardings=state_shardings),
    step=Program(
      name,
      sharding.pinned(step),
      (abstract, *teacher_args, batch, key),
      out_shardings=(state_shardings, sharding.replicated(mesh)),
      donate=(0,),
      mesh=mesh,
    ),
    evaluate=Program("eval", sharding.pinned(evaluate), (abstract.ema, *teacher_args, batch, key), mesh=mesh),
  )


def model_flops(training: Training) -> int:
  """Floating-point operations of one update, as MFU counts them: the network forward, and twice that backward.

  Recomputation by rematerialisation does not count; in a distillation, the evaluations of the teacher do.
  """
  with jax.set_mesh(training.mesh):
    asked = count_flops(training.evaluate.fn, *training.evaluate.args)
    params, *teacher, batch, key = training.evaluate.args
    forward = count_flops(training.stage.loss, params, batch, key) if teacher else asked
  return asked + 2 * forward


def noised_as(spec: StageSpec, train: TrainSpec) -> StageSpec:
  """The stage with its training noise. Only the schedule can differ from that of the stage."""
  if train.logsnr_shift is None:
    return spec
  return dataclasses.replace(spec, diffusion=dataclasses.replace(spec.diffusion, logsnr_shift=train.logsnr_shift))


def check_train(spec: StageSpec, train: TrainSpec, mesh: Mesh) -> tuple[int, int, int]:
  """Frames, height and width of a training example. Raises UserError if the numbers of the run do not fit together."""
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  rows = train.batch_size // train.accumulation
  if rows % shards:
    raise UserError(
      f"train.batch_size={train.batch_size} in {train.accumulation} microbatch(es) does not divide over the mesh's "
      f"data x fsdp={shards}: the nearest is {max(1, round(rows / shards)) * shards * train.accumulation}"
    )
  view = make_view(train, spec)
  return view.frames, view.height, view.width


def warm_start(state: TrainState, params: Any) -> TrainState:
  """The state with other weights (of the same tree) as parameters and EMA, placed into the shards of the state.

  Raises:
    UserError: a parameter is missing, unknown or has another shape; the error names the first one.
  """
  have = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
  want = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
  for name in sorted(set(have) | set(want)):
    if have.get(name) != want.get(name):
      raise UserError(f"train.init_from: parameter {name} has shape {have.get(name)}, this stage has {want.get(name)}")
  placed = jax.tree.map(lambda new, old: jax.device_put(np.asarray(new), old.sharding), params, state.params)

  def copied(old_tree: Any) -> Any:
    """A copy, because the step donates its state, so no two parts of it may share memory."""
    return jax.tree.map(lambda new, old: jax.device_put(np.array(new), old.sharding), params, old_tree)

  return state.replace(params=placed, ema=copied(state.ema), averages=tuple(copied(average) for average in state.averages))


def device_batches(
  host: Generator[Mapping[str, Any]], embed: EmbedFn, batch: Mapping[str, jax.ShapeDtypeStruct]
) -> Generator[dict[str, jax.Array]]:
  """Batches as described by `batch` (Training.batch), made from the rows of this process (sharding.process_rows) with captions.

  If the devices draw (ivid.train.drawing), `frames` replaces `video`. Closing the generator closes `host`.
  """
  size, frames, *_ = batch[batches.VIDEO].shape
  per_group = batch[batches.TEXT].shape[1]
  layout = batches.CaptionLayout.of(batch[batches.TEXT].shape[:2], batch_size=size, frames=frames)
  described = {**batch, batches.FRAMES: batch[batches.VIDEO]}  # in the same rows
  with contextlib.closing(host):
    for example in host:
      captions = example["captions"]
      if layout.images == layout.rows:  # all rows have one caption per frame
        captions = [row * (frames // len(row)) for row in captions]
      text, mask = embed([caption for row in captions for caption in row])
      arrays = {name: array for name, array in example.items() if name != "captions"}
      arrays[batches.TEXT] = text.reshape(-1, per_group, *text.shape[1:])
      arrays[batches.TEXT_MASK] = mask.reshape(-1, per_group, mask.shape[-1])
      yield {name: _placed(array, described[name]) for name, array in arrays.items()}


def _placed(rows: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
  """A global array, shaped and sharded like `like`, from the rows of this process."""
  return jax.make_array_from_process_local_data(like.sharding, np.asarray(rows), (like.shape[0], *np.shape(rows)[1:]))


def make_evaluation(
  training: Training, held_out: list[dict[str, jax.Array]], *, seed: int, teacher: Teacher | None = None
) -> Callable[[int, TrainState], dict[str, float]]:
  """Validation loss of the EMA weights on fixed batches: overall, and per quarter of diffusion time (u = 0 is clean).

  Args:
    teacher: in a distillation, the teacher on the devices.
  """
  evaluate = training.evaluate.jit()
  key = stream(seed, "eval")

  def call(step: int, state: TrainState) -> dict[str, float]:
    del step
    teacher_args = () if teacher is None else (teacher,)
    pairs = [evaluate(state.ema, *teacher_args, batch, key) for batch in held_out]
    losses, times = (np.concatenate(distributed.on_host([pair[i] for pair in pairs])) for i in (0, 1))
    return bucket_means(training.stage, losses, times)

  return call


def bucket_means(stage: Stage, losses: np.ndarray, times: np.ndarray, buckets: int = 4) -> dict[str, float]:
  """The mean loss, overall and per bucket of u; each bucket is named by its range of logsnr."""
  sums, counts = logsnr_buckets(loss=losses, level=times, low=0.0, high=1.0, buckets=buckets)  # pyright: ignore[reportArgumentType]  JAX takes arrays of NumPy
  levels = np.asarray(stage.schedule(np.linspace(0.0, 1.0, buckets + 1, dtype=np.float32)))
  result = {"eval/loss": float(losses.mean())}
  for i, (total, count) in enumerate(zip(np.asarray(sums), np.asarray(counts), strict=True)):
    if count:
      result[f"eval/loss_logsnr_{levels[i + 1]:.0f}_to_{levels[i]:.0f}"] = float(total / count)
  return result


def _caption_layout(train: TrainSpec, mesh: Mesh) -> batches.CaptionLayout:
  """The layout of the run, if every device and every microbatch has whole groups; else one caption per frame."""
  groups = train.batch_size // train.captions.rows
  if groups % (mesh.shape["data"] * mesh.shape["fsdp"] * train.accumulation):
    return batches.CaptionLayout(rows=1, images=1)
  return train.captions


def _sizes(shape: tuple[int, int, int]) -> dict[str, int]:
  return dict(zip(("frames", "height", "width"), shape, strict=True))
