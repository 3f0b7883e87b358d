"""One run of one stage, training or distillation: batches, state, checkpoints and hooks around the loop."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import sys
import warnings
from typing import Any

import jax
import numpy as np

from ivid.bin.captions import open_text
from ivid.bin.config import find_cascade
from ivid.bin.samples import make_sampler
from ivid.data.pipeline import Split, make_pipeline
from ivid.parallel.distributed import StopSignal, alone, connect, is_first
from ivid.parallel.mesh import make_mesh
from ivid.parallel.sharding import process_rows
from ivid.spec.run import RunSpec
from ivid.spec.stage import StageSpec
from ivid.stage import Teacher
from ivid.train import checkpoint
from ivid.train.checkpoint import Checkpointer
from ivid.train.loop import Hook, Loop
from ivid.train.metrics import MetricWriter
from ivid.train.rngs import stream
from ivid.train.run import Lesson, device_batches, make_evaluation, make_training, warm_start


def fit(run: RunSpec, stage: StageSpec, workdir: pathlib.Path, *, lesson: Lesson | None = None, teacher: Any = None) -> bool:
  """Trains `stage` as `run.train` says, from the work folder's last checkpoint if it has one.

  Args:
    lesson, teacher: of a distillation, with the teacher's parameters, from which the student `stage` starts.

  Returns: whether the run came to its end; False where SIGTERM, to any of its processes, stopped it, after saving.

  Raises:
    ValueError: what does not fit together; NonFiniteLoss.
  """
  # Prompts that a user types are worth a warning; long paraphrases in the training data lose their tails by design.
  warnings.filterwarnings("ignore", message="text of .* truncated")
  train, tokens = run.train, run.cascade.text.max_tokens
  encoder = open_text(run)
  if lesson is not None and lesson.teacher.text_encoder not in ("", encoder.hash):
    raise ValueError(
      f"--teacher was trained with the text encoder {lesson.teacher.text_encoder[:12]}, data.text_encoder={run.data.text_encoder} is "
      f"{encoder.hash[:12]}: expected the teacher's"
    )
  stage = dataclasses.replace(stage, text_encoder=encoder.hash)
  mesh = make_mesh(run.mesh)
  connect(mesh)
  training = make_training(stage, train, mesh, max_tokens=tokens, lesson=lesson)

  def embed(captions: list[str]):
    with alone():
      return encoder.embed(captions, length=tokens)

  def batches(split: Split, start: int):
    host = make_pipeline(
      data=run.data,
      train=train,
      stage=stage,
      start_step=start,
      split=split,
      rows=process_rows(mesh, train.batch_size),
    )
    return device_batches(host, embed, training.batch)

  with jax.set_mesh(mesh):
    checkpointer = Checkpointer(workdir, train.checkpoint, stage)
    if checkpointer.latest_step() is not None:
      state, next_index = checkpointer.restore(training.state)
      start = int(state.step)
      if next_index != start * train.batch_size:
        raise ValueError(
          f"train.batch_size={train.batch_size}: {workdir} was trained with {next_index / max(start, 1):g}; expected the same, or a new "
          "--workdir and train.init_from"
        )
      _say(f"resuming {workdir} at step {start}")
    else:
      state, start = training.init.jit()(stream(train.seed, "init")), 0
      if teacher is not None:
        state = warm_start(state, teacher)
      elif train.init_from:
        state = warm_start(state, initial_weights(train.init_from, run.stage))
    step, taught = training.step.jit(), None
    if teacher is not None:
      placed = jax.tree.map(lambda new, old: jax.device_put(np.asarray(new), old.sharding), teacher, training.state.params)
      taught = Teacher(placed, np.float32(stage.student.steps))
    held_out = list(itertools.islice(batches(Split.EVAL, 0), train.eval_batches)) if train.eval_every else []
    writer = MetricWriter(workdir, active=is_first(), from_step=start)
    hooks = [Hook(train.eval_every, make_evaluation(training, held_out, seed=train.seed, teacher=taught))] if held_out else []
    if train.sample_every and held_out:
      hooks.append(Hook(train.sample_every, make_sampler(training.stage, run, encoder, workdir, writer)))
    if train.adherence_every:
      from ivid.bin.adherence import make_adherence

      hooks.append(Hook(train.adherence_every, make_adherence(training.stage, run, encoder)))
    loop = Loop(
      spec=train,
      step_fn=step if taught is None else lambda state, batch, key: step(state, taught, batch, key),
      batches=batches(Split.TRAIN, start),
      key=stream(train.seed, "loss"),
      checkpointer=checkpointer,
      writer=writer,
      hooks=hooks,
    )
    _say(f"follow with: tensorboard --logdir={workdir / 'tb'}")
    stop = StopSignal(mesh)
    try:
      state = loop.run(state, stop=stop)
    finally:
      checkpointer.close()
      writer.close()
    stopped = stop.agreed()
  if stopped:
    _say(f"stopped at step {int(state.step)} and saved; the same command resumes")
  return not stopped and int(state.step) >= train.steps


def initial_weights(source: str, stage: str) -> Any:
  """EMA weights of a run's work folder, or the weights of `stage` in a cascade: a folder, or the name of one that ships."""
  if (pathlib.Path(source) / checkpoint.FOLDER).is_dir():
    return checkpoint.load_ema(source)[1]
  try:
    cascade = find_cascade(source)
  except ValueError:
    raise ValueError(
      f"train.init_from={source!r}: expected a work folder with checkpoints, a cascade's folder or a shipped cascade"
    ) from None
  return cascade.load_stage(stage)


def _say(line: str) -> None:
  if is_first():
    print(line, file=sys.stderr, flush=True)
