"""One run of one stage, training or distillation: batches, state, checkpoints and hooks around the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import pathlib
import warnings
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

from ivid.data.pipeline import Split, make_pipeline
from ivid.diffusion.distill import Teacher
from ivid.flops import peak_flops
from ivid.media.places import open_folder
from ivid.parallel import signals
from ivid.parallel.distributed import StopSignal, alone, connect, is_first
from ivid.parallel.mesh import make_mesh
from ivid.parallel.sharding import process_rows
from ivid.runs.cache import enable_compilation_cache
from ivid.runs.curves import CURVES
from ivid.runs.rollback import go_back, step_to_resume
from ivid.runs.samples import make_sampler
from ivid.runs.sources import check_sources, remember_sources
from ivid.runs.starting import first_state, resumed
from ivid.runs.text import open_text
from ivid.runs.workdir import run_json, shared_folder, write_status
from ivid.spec import convert
from ivid.spec.errors import UserError
from ivid.spec.run import Draw, RunSpec
from ivid.spec.session import TENSORBOARD, Session
from ivid.spec.stage import StageSpec
from ivid.spec.view import make_view
from ivid.stage import Stage
from ivid.text.embedder import Embedder
from ivid.train import phases
from ivid.train.band import Band
from ivid.train.checkpoint import Checkpointer
from ivid.train.compiling import compile_clock
from ivid.train.drawing import drawn_first, make_drawing
from ivid.train.loop import GRAD_NORM, Cost, Hook, Loop
from ivid.train.metrics import MetricWriter, read_rows
from ivid.train.phases import Phase
from ivid.train.profiling import Profiler
from ivid.train.rngs import stream
from ivid.train.run import Lesson, Training, device_batches, make_evaluation, make_training, model_flops
from ivid.train.tensorboard import BOARD
from ivid.train.trackers import check_trackers, open_trackers
from ivid.weights.ema import say
from ivid.weights.kept import latest_step

DEFAULTS = Session()


def train(
  run: RunSpec,
  workdir: str | os.PathLike[str],
  *,
  max_minutes: float = 0.0,
  resume_step: int = 0,
  trackers: str = TENSORBOARD,
  profile_steps: str = "",
) -> bool:
  """Trains the stage of a run in a work folder, which is created, or continues from its last checkpoint. `ivid train` calls this.

  If several processes train together, each must have called `ivid.parallel.distributed.join`.

  Args:
    run: as `ivid.config.load_run` reads it.
    workdir: checkpoints, metrics, samples, config.json and status.json.
    max_minutes: time after which it saves and stops; 0: no limit.
    resume_step: step of the checkpoint to go back to; 0: the last one.
    trackers, profile_steps: as in ivid.spec.session.Watch.

  Returns: whether the run is finished; False if SIGTERM, SIGINT or the time limit stopped it, after saving. The same call continues.

  Raises:
    UserError: settings do not fit together, or another trainer writes into the folder.
    NonFiniteLoss: the loss is no longer finite.
  """
  asked = Session(max_minutes=max_minutes, resume_step=resume_step, trackers=trackers, profile_steps=profile_steps)
  asked.check_profiled(run.train.total_steps)
  check_trackers(asked)
  enable_compilation_cache()
  folder = open_folder(workdir, "--workdir")
  if resume_step:  # before anything is created there
    step_to_resume(folder, resume_step, run_json(run))
  with signals.listening(), shared_folder(folder, run_json(run)) as begin:
    done = until_stopped(train_stage, run, run.cascade.stage(run.stage), folder, begin, session=asked)
    if is_first():
      write_status(folder, done=done, step=latest_step(folder))
  return done


def until_stopped(train: Callable[..., bool], *args: Any, **options: Any) -> bool:
  """What `train` returns; False also if a signal ended it before the first update, when there is nothing to save."""
  try:
    return train(*args, **options)
  except KeyboardInterrupt:
    if not signals.asked():
      raise
    say(f"stopped before the first update; the same command goes on{signals.command()}")
    return False


def train_stage(
  run: RunSpec,
  stage: StageSpec,
  workdir: pathlib.Path,
  begin: Callable[[], None] = lambda: None,
  *,
  lesson: Lesson | None = None,
  teacher: Any = None,
  session: Session = DEFAULTS,
) -> bool:
  """Trains `stage` as `run.train` says, phase after phase, from the work folder's last checkpoint if it has one.

  Args:
    begin: called after all checks; nothing in the folder changes before that.
    lesson, teacher: for a distillation, with the teacher's parameters, from which the student `stage` starts.
    session: how long it runs, and what watches it.

  Returns: whether the run is finished; False if SIGTERM or SIGINT to any of its processes, or the time limit, stopped it after saving.

  Raises:
    UserError: settings do not fit together.
    NonFiniteLoss: the loss is no longer finite.
  """
  # Prompts that a user types are worth a warning; long paraphrases in the training data lose their tails by design.
  warnings.filterwarnings("ignore", message="text of .* truncated")
  compile_clock()  # starts the clock
  total = run.train.total_steps
  all_phases = phases.resolve(run.train)
  phases.check_phases(all_phases, stage)
  encoder = open_text(run)
  if lesson is not None and lesson.teacher.text_encoder not in ("", encoder.hash):
    raise UserError(
      f"--teacher was trained with the text encoder {lesson.teacher.text_encoder[:12]}, data.text_encoder={run.data.text_encoder} is "
      f"{encoder.hash[:12]}: expected the teacher's"
    )
  stage = dataclasses.replace(stage, text_encoder=encoder.hash)
  mesh = make_mesh(run.mesh)
  connect(mesh)
  rate = phases.learning_rate(all_phases)
  make = functools.partial(make_training, stage, mesh=mesh, max_tokens=run.cascade.text.max_tokens, lesson=lesson, rate=rate)
  stop = StopSignal(mesh, seconds=60.0 * session.max_minutes or math.inf)
  kept: dict[str, Any] = dict(widths=run.train.ema_widths, optimizer=run.train.optimizer.kind.value)
  with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
    checkpointer = stack.enter_context(Checkpointer(workdir, run.train.checkpoint, stage, **kept))
    sources = check_sources(run.data, workdir, resuming=checkpointer.latest_step() is not None)
    back = step_to_resume(workdir, session.resume_step, run_json(run))
    if session.resume_step and not back:
      say(f"this command went back to step {session.resume_step} before: it goes on")
    state, seen = first_state(run, make(all_phases[0].train), checkpointer, back, teacher)
    step, flops = int(state.step), seen.flops
    if step:
      all_phases = resumed(all_phases, step, seen, total, stage, workdir)
    trackers = open_trackers(session.tracker_names, convert.to_dict(run))
    writer = stack.enter_context(MetricWriter(workdir, active=is_first(), from_step=step, trackers=trackers))
    profiler = stack.enter_context(Profiler(workdir, session.profiled, active=is_first()))
    course = _Course(encoder, workdir, writer, checkpointer, profiler, all_phases, total, rate, teacher)
    begun = False
    for phase in phases.remaining(all_phases, step, total):
      part = _Part(course, dataclasses.replace(run, train=phase.train), Stage(stage), phase, make(phase.train))
      loop = part.loop(int(state.step), flops)
      if not begun:
        begin()
        if back and is_first():
          go_back(workdir, back, run_json(run))
        checkpointer.begin(step)
        remember_sources(sources, workdir)
        writer.open()
        if TENSORBOARD in session.tracker_names:
          say(f"follow with: tensorboard --logdir={workdir / BOARD}")
        begun = True
      if phase.name:
        say(f"phase {phase.name}: steps {phase.first_step} to {phase.end}")
      with contextlib.closing(loop.batches):  # pyright: ignore[reportArgumentType]  always a generator
        state = loop.run(state, stop=stop)
      flops = loop.flops_at(int(state.step))
      if int(state.step) < phase.end:
        break
    stopped = stop.agreed()
  finished = int(state.step) >= total
  if stopped and not finished:
    typed = "" if jax.process_count() > 1 else signals.command()  # a launcher starts several processes
    saved = f"at step {int(state.step)} and saved" if int(state.step) else "before the first update"
    say(f"stopped {saved}; the same command resumes{typed}")
  return finished and not stopped


@dataclasses.dataclass(frozen=True)
class _Course:
  """What all phases of a run share: `total` updates, the `rate` of each, and in a distillation the parameters of the `teacher`."""

  encoder: Embedder
  workdir: pathlib.Path
  writer: MetricWriter
  checkpointer: Checkpointer
  profiler: Profiler
  phases: tuple[Phase, ...]
  total: int
  rate: Callable[[int], Any]
  teacher: Any


@dataclasses.dataclass(frozen=True)
class _Part:
  """What the loop and the hooks of one phase are made from; `run` has the phase's TrainSpec, `stage` the noise of sampling."""

  course: _Course
  run: RunSpec
  stage: Stage
  phase: Phase
  training: Training

  def batches(self, split: Split, step: int) -> Generator[dict[str, jax.Array]]:
    """Batches from update `step` of the run on, or the validation batches from the first one on."""
    train, stage, rows = self.phase.train, self.stage.spec, process_rows(self.training.mesh, self.phase.train.batch_size)
    if split is Split.TRAIN:
      before = phases.drawn_before(self.course.phases, self.phase, stage)
      counted: dict[str, Any] = dict(first_index=self.phase.first_index, before=before, start_step=step - self.phase.first_step)
      host = make_pipeline(data=self.run.data, train=train, stage=stage, rows=rows, **counted)
    else:
      host = make_pipeline(data=self.run.data.in_process(), train=train, stage=stage, rows=rows, split=split)
    return device_batches(host, self._embed, self.training.batch)

  def _embed(self, captions: list[str]):
    with alone():
      return self.course.encoder.embed(captions, length=self.run.cascade.text.max_tokens)

  def hooks(self, teacher: Teacher | None) -> list[Hook]:
    """Evaluation, samples and curves."""
    train, training, course, hooks = self.phase.train, self.training, self.course, []
    held_out = list(itertools.islice(self.batches(Split.EVAL, 0), train.eval_batches)) if train.eval_every else []
    if held_out:
      hooks.append(Hook(train.eval_every, make_evaluation(training, held_out, seed=train.seed, teacher=teacher)))
    if train.sample_every and held_out:
      hooks.append(Hook(train.sample_every, make_sampler(self.stage, self.run, course.encoder, course.workdir, course.writer)))
    for kind in CURVES.values():
      if every := kind.every(train):
        hooks += [Hook(every, curve) for curve in kind.make(self.stage, self.run, course.encoder)]
    return hooks

  def loop(self, step: int, flops: float | None) -> Loop:
    """The loop of the phase from update `step` on; earlier updates took `flops` operations."""
    course, training, update, on_devices = self.course, self.training, self.training.step.jit(), None
    if course.teacher is not None:
      like = training.step.args[1].params
      placed = jax.tree.map(lambda new, old: jax.device_put(np.asarray(new), old.sharding), course.teacher, like)
      on_devices = Teacher(placed, np.float32(training.stage.spec.student.steps))
    step_fn = update if on_devices is None else lambda state, batch, key: update(state, on_devices, batch, key)
    if self.run.data.draw is Draw.DEVICE:
      step_fn = drawn_first(step_fn, make_drawing(make_view(self.phase.train, self.stage.spec), training.batch, training.mesh))
    return Loop(
      phase=self.phase,
      total=course.total,
      step_fn=step_fn,
      batches=self.batches(Split.TRAIN, step),
      key=stream(self.phase.train.seed, "loss"),
      checkpointer=course.checkpointer,
      writer=course.writer,
      hooks=self.hooks(on_devices),
      rate=course.rate,
      cost=Cost(model_flops(training), flops, _peak(training)),
      band=self._band(step),
      drawn=None if self.phase.extra is None else lambda at: phases.drawn_at(course.phases, self.phase, at, self.stage.spec),
      profiler=course.profiler,
    )

  def _band(self, step: int) -> Band:
    """The band of the gradient's norm, from what the phase has logged up to update `step`."""
    band, first = Band(), self.phase.first_step + 1
    for row in read_rows(self.course.workdir) if step > self.phase.first_step else ():
      if first <= row["step"] <= step and (norm := row.get(f"train/{GRAD_NORM}")) is not None:
        band.observe(first, norm)
        first = row["step"] + 1
    return band


def _peak(training: Training) -> float | None:
  """bfloat16 FLOP/s of all devices of the run together; None if unknown."""
  devices = training.mesh.devices
  peak = peak_flops(devices.flat[0].device_kind)
  return peak and peak * devices.size
