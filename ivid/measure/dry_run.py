"""What a run would take, computed from shapes only: `ivid train --dry_run`."""

from __future__ import annotations

import json
from typing import Any

from jax.sharding import Mesh

from ivid.flops import count_bytes, count_flops, count_params
from ivid.media.files import write_whole
from ivid.parallel.mesh import make_mesh
from ivid.sample.programs import sample_args
from ivid.spec import formats
from ivid.spec.run import RunSpec, TrainSpec
from ivid.spec.sampling import SamplingSpec
from ivid.spec.stage import StageSpec
from ivid.stage import Stage
from ivid.train import phases
from ivid.train.run import make_training


def evaluation_args(stage: Stage, *, batch_size: int = 1, max_tokens: int = 128) -> tuple[Any, ...]:
  """Abstract arguments of Stage.predict on whole clips: params, z_t, logsnr, conditioning."""
  params, state, cond, _, _ = sample_args(stage, SamplingSpec(), batch_size=batch_size, max_tokens=max_tokens)
  return params, state.z, cond.fps, cond


def evaluation_flops(stage: Stage, *, max_tokens: int = 128) -> int:
  """Floating-point operations of one network evaluation on one clip."""
  return count_flops(stage.predict, *evaluation_args(stage, max_tokens=max_tokens))


def dry_run(run: RunSpec, *, json_path: str | None = None) -> None:
  """Prints what each phase of a run would take. The JSON has a list of phases or, for a run without phases, is one report."""
  stage, mesh, reports = run.cascade.stage(run.stage), make_mesh(run.mesh), []
  for phase in phases.remaining(phases.resolve(run.train), 0, run.train.total_steps):
    report = dry_run_report(stage, phase.train, mesh, max_tokens=run.cascade.text.max_tokens)
    phases.check_phases((phase,), stage)
    if phase.name:
      report |= dict(phase=phase.name, steps=phase.train.steps, first_step=phase.first_step, examples=phase.index_at(phase.end))
      print(f"phase       {phase.name}: steps {phase.first_step} to {phase.end}, {report['examples']:,} examples at its end")
    report |= dict(learning_rate=_rates(run.train, phase))
    print(format_report(report))
    reports.append(report)
  if json_path:
    report = dict(phases=reports) if run.train.phases else reports[0]
    write_whole(json_path, json.dumps(formats.stamped(report), indent=1))


def _rates(train: TrainSpec, phase: phases.Phase) -> dict[str, Any]:
  """The learning rate at a phase's first update, after its warm-up and at its last update, and the number of warm-up updates."""
  rate, steps = phases.learning_rate(phases.resolve(train)), phase.train.steps
  first, last = phase.first_step, phase.end - 1
  warmup = phases.warmup_steps(phase.train.optimizer, steps)  # pyright: ignore[reportArgumentType]  every phase has its updates
  values = dict(first=float(rate(first)), warm=float(rate(first + warmup)), last=float(rate(last)))  # pyright: ignore[reportArgumentType]  a schedule gives a scalar
  return values | dict(warmup_steps=warmup, decay=phase.train.optimizer.decay.value)


def dry_run_report(spec: StageSpec, train: TrainSpec, mesh: Mesh, *, max_tokens: int) -> dict[str, Any]:
  """Sizes and costs of a run as plain numbers."""
  training = make_training(spec, train, mesh, max_tokens=max_tokens)
  state, batch, _ = training.step.args
  return {
    "stage": spec.name,
    "output": str(spec.output),
    "input": str(spec.lowres.input) if spec.lowres else None,
    "mesh": dict(mesh.shape),
    "parameters": count_params(state.params),
    "gflop_per_evaluation": evaluation_flops(training.stage, max_tokens=max_tokens) / 1e9,
    "gflop_per_step": count_flops(training.step.fn, *training.step.args) / 1e9,
    "batch": {name: [*a.shape, str(a.dtype)] for name, a in batch.items()},
    "bytes_per_device": {
      "parameters": count_bytes(state.params),
      "ema": count_bytes(state.ema),
      "optimizer": count_bytes(state.opt_state),
      **({"averages": count_bytes(state.averages)} if state.averages else {}),
      "batch": count_bytes(batch),
    },
  }


def format_report(report: dict[str, Any]) -> str:
  """The report as a table of lines."""
  lines = [f"stage       {report['stage']}: {report['input'] or 'noise'} -> {report['output']}"]
  lines.append(f"parameters  {report['parameters']:,}")
  lines.append(f"GFLOP       {report['gflop_per_evaluation']:.2f} an evaluation, {report['gflop_per_step']:.1f} a training step")
  if "learning_rate" in report:
    rate = report["learning_rate"]
    warm = f"{rate['warm']:.3g} after {rate['warmup_steps']:,} updates"
    lines.append(f"rate        {rate['first']:.3g}, {warm}, {rate['decay']} to {rate['last']:.3g}")
  lines.append("mesh        " + " x ".join(f"{axis}={size}" for axis, size in report["mesh"].items()))
  for name, (*shape, dtype) in report["batch"].items():
    lines.append(f"batch       {name:<10} {dtype:<9} {shape}")
  for name, count in report["bytes_per_device"].items():
    lines.append(f"MB/device   {name:<10} {count / 1e6:.1f}")
  return "\n".join(lines)
