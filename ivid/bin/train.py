"""Train one stage of a cascade; the same command again resumes.

ivid train --config=nano:base --workdir=runs/base
"""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
import pathlib
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import IO, Any

from absl import flags

from ivid.bin.cache import enable_compilation_cache
from ivid.bin.config import define_config, find_cascade, load_config, parse_flags, split_overrides, text_encoder_folder
from ivid.spec import convert
from ivid.spec.run import RunSpec
from ivid.spec.stage import StageSpec


def define_flags(values: flags.FlagValues) -> None:
  define_config(values)
  flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, samples.", flag_values=values)
  flags.DEFINE_bool("dry_run", False, "Print shapes, parameters, GFLOP and bytes per device, and stop.", flag_values=values)
  flags.DEFINE_string("json", None, "With --dry_run: write what it prints to this file as well.", flag_values=values)


def main(argv: Sequence[str]) -> None:
  plain, overrides = split_overrides(argv)
  values = parse_flags(plain, define_flags)
  config = load_config(values.config, overrides)
  run = convert.run_from_config(config)
  stage = run.cascade.stage(run.stage)
  enable_compilation_cache()
  if values.dry_run:
    _dry_run(run, stage, values.json)
    return
  if not values.workdir:
    raise ValueError("--workdir is missing: expected the folder of the run, such as runs/base")
  workdir = pathlib.Path(values.workdir)
  with claim(workdir, config.to_json_best_effort(indent=1)):
    _train(run, stage, workdir)


def claim(workdir: pathlib.Path, config_json: str) -> IO:
  """Makes the work folder and records the config and the process id (to pause a background run: kill -STOP).

  Returns:
    An open file whose lock keeps other trainers out of the folder; the system lets go of it however this process ends.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = open(workdir / ".lock", "a", encoding="utf-8")
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      lock.close()
      pid = (workdir / "pid").read_text(encoding="utf-8")
      raise ValueError(f"--workdir={workdir} is in use by process {pid}: expected a folder that no other trainer writes") from None
    for name, text in (("config.json", config_json), ("pid", str(os.getpid()))):
      temporary = workdir / f".{name}.{os.getpid()}"
      temporary.write_text(text, encoding="utf-8")
      os.replace(temporary, workdir / name)
  except OSError as error:
    raise ValueError(f"--workdir={workdir} is not writable: {error.strerror}") from None
  return lock


def _train(run: RunSpec, stage: StageSpec, workdir: pathlib.Path) -> None:
  import jax  # after the flags are known to be right: starting JAX takes seconds

  from ivid.bin.samples import make_sampler
  from ivid.data.pipeline import Split, make_pipeline
  from ivid.parallel.mesh import make_mesh
  from ivid.text.encoder import load_encoder
  from ivid.train.checkpoint import Checkpointer
  from ivid.train.loop import Hook, Loop
  from ivid.train.metrics import MetricWriter
  from ivid.train.rngs import stream
  from ivid.train.run import device_batches, make_evaluation, make_training, warm_start

  # Prompts that a user types are worth a warning; long paraphrases in the training data lose their tails by design.
  warnings.filterwarnings("ignore", message="text of .* truncated")
  train, tokens = run.train, run.cascade.text.max_tokens
  encoder = load_encoder(text_encoder_folder(run.data.text_encoder))
  stage = dataclasses.replace(stage, text_encoder=encoder.hash)
  mesh = make_mesh(run.mesh)
  training = make_training(stage, train, mesh, max_tokens=tokens)

  def batches(split: Split, start: int):
    host = make_pipeline(
      data=run.data,
      train=train,
      stage=stage,
      start_step=start,
      split=split,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    return device_batches(host, lambda captions: encoder.embed(captions, length=tokens), mesh)

  with mesh:
    checkpointer = Checkpointer(workdir, train.checkpoint, stage)
    if checkpointer.latest_step() is not None:
      state, next_index = checkpointer.restore(training.state)
      start = next_index // train.batch_size
      print(f"resuming {workdir} at step {start}", file=sys.stderr)
    else:
      state, start = training.init.jit()(stream(train.seed, "init")), 0
      if train.init_from:
        state = warm_start(state, initial_weights(train.init_from, run.stage))
    held_out = list(itertools.islice(batches(Split.EVAL, 0), train.eval_batches)) if train.eval_every else []
    writer = MetricWriter(workdir, active=jax.process_index() == 0, from_step=start)
    hooks = [Hook(train.eval_every, make_evaluation(training, held_out, seed=train.seed))] if held_out else []
    if train.sample_every and held_out:
      hooks.append(Hook(train.sample_every, make_sampler(training.stage, run, encoder, workdir, writer)))
    if train.adherence_every:
      from ivid.bin.adherence import make_adherence

      hooks.append(Hook(train.adherence_every, make_adherence(training.stage, run, encoder)))
    loop = Loop(
      spec=train,
      step_fn=training.step.jit(),
      batches=batches(Split.TRAIN, start),
      key=stream(train.seed, "loss"),
      checkpointer=checkpointer,
      writer=writer,
      hooks=hooks,
    )
    if jax.process_index() == 0:
      print(f"follow with: tensorboard --logdir={workdir / 'tb'}", file=sys.stderr)
    stopping = _stop_on_signal()
    try:
      state = loop.run(state, stop=lambda: bool(stopping))
    finally:
      checkpointer.close()
      writer.close()
  if stopping:
    print(f"stopped at step {int(state.step)} and saved; the same command resumes", file=sys.stderr)


def initial_weights(source: str, stage: str) -> Any:
  """EMA weights of a run's work folder, or the weights of `stage` in a cascade: a folder, or the name of one that ships."""
  from ivid.train import checkpoint

  if (pathlib.Path(source) / checkpoint.FOLDER).is_dir():
    return checkpoint.load_ema(source)[1]
  try:
    cascade = find_cascade(source)
  except ValueError:
    raise ValueError(
      f"train.init_from={source!r}: expected a work folder with checkpoints, a cascade's folder or a shipped cascade"
    ) from None
  return cascade.load_stage(stage)


def _stop_on_signal() -> list[int]:
  """A list that SIGTERM fills: the loop ends after its step, saves, and the process exits 0."""
  received: list[int] = []
  signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
  return received


def _dry_run(run: RunSpec, stage: StageSpec, json_path: str | None) -> None:
  from ivid.parallel.mesh import make_mesh
  from ivid.train.report import dry_run_report, format_report

  report = dry_run_report(stage, run.train, make_mesh(run.mesh), max_tokens=run.cascade.text.max_tokens)
  print(format_report(report))
  if json_path:
    temporary = f"{json_path}.{os.getpid()}"
    pathlib.Path(temporary).write_text(json.dumps(report, indent=1), encoding="utf-8")
    os.replace(temporary, json_path)
