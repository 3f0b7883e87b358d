"""Trains the retrieval network with the common loop, in a work folder."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from ivid.evaluate import retrieval
from ivid.evaluate.dual_encoder import Network, abstract_params, colours, init_params, save_network
from ivid.media.places import local_path
from ivid.nets.retrieval import DualEncoder, contrastive_loss
from ivid.parallel import signals
from ivid.programs import Program
from ivid.runs.cache import enable_compilation_cache
from ivid.runs.retrieval_pool import MOVING_SHAPES, batches, embedded, open_pool
from ivid.runs.workdir import claim
from ivid.spec.errors import UserError
from ivid.spec.retrieval import RetrievalSpec, RetrievalTraining
from ivid.spec.run import CheckpointSpec, OptimizerKind, OptimizerSpec, TrainSpec
from ivid.steps import LossFn, TrainState, init_state, train_step
from ivid.text.encoder import TextEncoder, load_encoder
from ivid.train import phases
from ivid.train.checkpoint import Checkpointer
from ivid.train.loop import Hook, Loop
from ivid.train.metrics import MetricWriter
from ivid.train.optimizer import make_optimizer
from ivid.train.rngs import stream
from ivid.weights.ema import say
from ivid.weights.opening import text_encoder_folder

NETWORK, POOL, EMBEDDINGS = "network", "pool", "embeddings"  # in the work folder
EMA_DECAY = 0.98
WARMUP = 30
VALIDATED = 100  # drawn clips of other scenes, for the curves
LOG_EVERY, SAVE_EVERY, VALIDATE_EVERY = 20, 100, 200


def train_retrieval(options: RetrievalTraining, spec: RetrievalSpec | None = None) -> bool:
  """Trains a network in a new or existing work folder, from its last checkpoint on. The EMA is then in the folder's `network`.

  Args:
    spec: the network's; the text encoder's part is filled in. None: RetrievalSpec's defaults.

  Returns: whether the run came to its end; False if a signal stopped it, after saving. The same call continues it.

  Raises:
    UserError: settings do not fit together, or the folder is of another run; NonFiniteLoss.
  """
  options.check()
  enable_compilation_cache()
  folder = local_path(options.workdir, "--workdir")
  encoder = load_encoder(text_encoder_folder(options.text))
  read = dict(text=options.text, text_encoder=encoder.hash, text_dim=encoder.spec.dim, max_tokens=encoder.spec.max_tokens)
  spec = dataclasses.replace(spec or RetrievalSpec(), data=options.data, **read)
  with signals.listening(), claim(folder):
    pool = open_pool(folder / POOL, options, spec.clip)
    if options.batch_size % pool.group:
      raise UserError(f"--batch_size={options.batch_size}: expected a multiple of {pool.group}, which is how many clips a group has")
    embedder = embedded(folder / EMBEDDINGS, encoder, pool.captions, spec.max_tokens)
    phase = phases.resolve(train_spec(options))[0]
    kind = phase.train.optimizer.kind.value
    with Checkpointer(folder, phase.train.checkpoint, spec, optimizer=kind) as checkpointer:
      course = _course(spec, phase)
      state = _first_state(course, options, checkpointer)
      step = int(state.step)
      checkpointer.begin(step)
      host = batches(pool, embedder, batch_size=options.batch_size, length=spec.max_tokens, seed=options.seed, start=step)
      with MetricWriter(folder, from_step=step) as writer:
        loop = Loop(
          phase=phase,
          total=options.steps,
          step_fn=course.step.jit(),
          batches=map(jax.device_put, host),
          key=stream(options.seed, "loss"),
          checkpointer=checkpointer,
          writer=writer,
          hooks=[Hook(VALIDATE_EVERY, _curves(spec, encoder))] if options.data == MOVING_SHAPES else [],
          rate=course.rate,
        )
        state = loop.run(state, stop=signals.asked)
    save_network(folder / NETWORK, spec, jax.device_get(state.ema))
  return int(state.step) >= options.steps


def train_spec(options: RetrievalTraining) -> TrainSpec:
  """The options as a TrainSpec for the loop."""
  optimizer = OptimizerSpec(kind=OptimizerKind.MUON, learning_rate=options.learning_rate, warmup_steps=WARMUP)
  checkpoint = CheckpointSpec(every=SAVE_EVERY)
  kept: dict[str, Any] = dict(ema_decay=EMA_DECAY, log_every=LOG_EVERY, checkpoint=checkpoint)
  return TrainSpec(seed=options.seed, steps=options.steps, batch_size=options.batch_size, optimizer=optimizer, **kept)


def loss_fn(spec: RetrievalSpec) -> LossFn:
  """loss(params, batch, key) -> the contrastive loss of each pair, twice, as steps.train_step takes it; batches as of `batches`."""
  net = DualEncoder(spec)

  def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    del key
    made: Any = net.apply({"params": params}, colours(batch["clips"]), batch["text"], batch["mask"])
    clips, captions, scale = made
    found = contrastive_loss(clips, captions, scale, batch["same"])
    return found, found

  return loss


@dataclasses.dataclass(frozen=True)
class _Course:
  """Programs of a run, and its learning rate by update."""

  init: Program
  step: Program
  rate: Callable[[int], Any]


def _course(spec: RetrievalSpec, phase: phases.Phase) -> _Course:
  rate = phases.learning_rate((phase,))
  optimizer = make_optimizer(phase.train.optimizer, rate=rate, boxed=abstract_params(spec))

  def init(key: jax.Array) -> TrainState:
    return init_state(nn.meta.unbox(init_params(spec, key)), optimizer)

  step = functools.partial(train_step, loss_fn=loss_fn(spec), optimizer=optimizer, ema_decay=phase.train.ema_decay, accumulation=1)
  return _Course(Program("init", init), Program("train_retrieval", step, donate=(0,)), rate)


def _first_state(course: _Course, options: RetrievalTraining, checkpointer: Checkpointer) -> TrainState:
  """A new state, or the work folder's. Errors as of Checkpointer.restore."""
  key = stream(options.seed, "init")
  if checkpointer.latest_step() is None:
    return course.init.jit()(key)
  placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=placed), jax.eval_shape(course.init.fn, key))
  state = checkpointer.restore(like)[0]
  say(f"resuming at step {int(state.step)}")
  return state


def _curves(spec: RetrievalSpec, encoder: TextEncoder) -> Callable[[int, TrainState], dict[str, float]]:
  """The curves of the EMA on drawn clips: R@1 of VALIDATED, and how often a prompt with one changed attribute is less close."""
  truth = functools.cache(lambda: retrieval.drawn_truth(spec.clip, VALIDATED, changes=1))

  def call(step: int, state: TrainState) -> dict[str, float]:
    del step
    found = retrieval.validate(Network(spec, state.ema, "", encoder), truth())
    return {f"eval/{name}": value for name, value in found.items()}

  return call
