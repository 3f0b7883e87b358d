"""Compiles a stage's Program for a TPU slice that need not exist: memory, arithmetic, traffic between chips, estimated time."""

from __future__ import annotations

import time
from typing import Any

import jax
from jax.sharding import Mesh

from ivid.flops import count_params
from ivid.measure import hlo
from ivid.measure.dry_run import evaluation_flops
from ivid.measure.topology import Slice, slice_devices
from ivid.parallel.mesh import make_mesh
from ivid.programs import Program
from ivid.sample.meshes import check_divides, mesh_rows
from ivid.sample.programs import make_sample_program, sample_args
from ivid.spec.errors import UserError
from ivid.spec.run import RunSpec
from ivid.spec.stage import StageSpec
from ivid.stage import Stage, evaluations_per_step, unbox
from ivid.train.distill import phase_run, plan_phases, student_stage
from ivid.train.run import Lesson, make_training, model_flops

FIT_EFFORT = -1.0  # the compiler's effort: 5 to 10 times faster, with nearly the same memory but useless estimates of time
SHOWN = 12  # operations in the table


def refuse_too_small(report: dict[str, Any], found: Slice) -> None:
  """Raises UserError, which names a slice that is large enough, if the program needs more memory than a chip has."""
  needed, have = report["bytes_per_chip"]["total"], report["bytes_per_chip"]["hbm"]
  if needed <= have:
    return
  # A first guess of what is enough, since parameters, optimizer state and activations are all spread over the chips.
  smallest = found.smallest(found.chips * needed / have)
  raise UserError(
    f"{report['stage']} needs {needed / 1e9:.1f} GB per chip, {found.name} has {have / 1e9:.1f}: "
    + (f"the smallest that should fit is {smallest}" if smallest else "no slice of this family should fit")
  )


def compile_report(run: RunSpec, found: Slice, *, program: str, fit: bool) -> dict[str, Any]:
  """Figures about the same Program that the trainer, the distiller or the sampler runs.

  The estimated time is the sum of the compiler's own cycle estimates divided by the clock rate. This is a static model of one chip. It
  leaves out the host, waiting for memory beyond what the model sees, traffic between slices, and collectives. The latter are estimated
  separately, from their bytes and one axis of links, on the assumption that none of them overlaps with arithmetic.
  """
  slices = run.mesh.slices or 1
  chips = found.chips * slices
  mesh = make_mesh(run.mesh, slice_devices(found, slices))
  stage = run.cascade.stage(run.stage)
  made, clips, flops = make_program(run, program, mesh)
  started = time.perf_counter()
  lowered = made.lower()
  lowering = time.perf_counter() - started
  started = time.perf_counter()
  compiled = lowered.compile({"exec_time_optimization_effort": FIT_EFFORT} if fit else None)  # pyright: ignore[reportArgumentType]  JAX declares less than it takes and gives
  compiling = time.perf_counter() - started
  return {
    "stage": run.stage,
    "program": program,
    "sampling": _sampled(stage) if program == "sample" else None,
    "topology": found.name,
    "slices": slices,
    "chips": chips,
    "mesh": dict(mesh.shape),
    "parameters": count_params(unbox(Stage(stage).abstract_params())),
    "clips": clips,
    "lower_seconds": lowering,
    "compile_seconds": compiling,
    "fit_only": fit,
    **cost_of(compiled, found, flops=flops, chips=chips, fit=fit),
  }


def cost_of(compiled: jax.stages.Compiled, found: Slice, *, flops: int, chips: int, fit: bool = False) -> dict[str, Any]:
  """Memory, traffic and time of a program that was compiled for so many chips of a slice.

  Args:
    flops: floating-point operations that its mathematics requires, over all chips.
    fit: whether it was only compiled to find its memory.

  Returns:
    Plain numbers: bytes per chip, collectives, seconds, and the MFU if all collectives are hidden behind arithmetic and if none is.
  """
  memory, peak = compiled.memory_analysis(), chips * found.family.peak
  arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
  outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
  total = arguments + temporaries + max(outputs, 0) + memory.generated_code_size_in_bytes
  cost = hlo.program_cost(compiled.as_text())  # pyright: ignore[reportArgumentType]  JAX declares less than it takes and gives
  seconds = cost.cycles / found.family.clock
  links = {kind: {"count": n, "bytes": size, "seconds": passed / found.family.ring} for kind, (n, size, passed) in cost.collectives.items()}
  exposed = sum(link["seconds"] for link in links.values())
  return {
    "model_flops": flops,
    "bytes_per_chip": dict(arguments=arguments, temporaries=temporaries, total=total, hbm=found.family.hbm),
    "collectives": links,
    "collective_seconds": exposed,
    "between_slices": {kind: {"count": n, "bytes": sent} for kind, (n, sent) in cost.between_slices.items()},
    "step_seconds": None if fit else seconds,
    "mfu": None if fit else flops / (peak * seconds),
    "mfu_exposed": None if fit else flops / (peak * (seconds + exposed)),
    "where": {} if fit else {name: cycles / cost.cycles for name, cycles in list(cost.where.items())[:SHOWN]},
  }


def make_program(run: RunSpec, program: str, mesh: Mesh) -> tuple[Program, int, int]:
  """The Program, the number of clips per run, and the floating-point operations that its mathematics requires.

  Raises:
    UserError: the mesh does not divide the clips that are to be sampled.
  """
  stage, tokens = run.cascade.stage(run.stage), run.cascade.text.max_tokens
  if program == "sample":
    rows = mesh_rows(mesh)
    check_divides(mesh, [stage])
    args = sample_args(Stage(stage), stage.sampling, batch_size=rows, max_tokens=tokens, mesh=mesh)
    made = make_sample_program(Stage(stage), stage.sampling, args, mesh=mesh)
    return made, rows, rows * evaluations_per_step(stage, stage.sampling) * evaluation_flops(Stage(stage), max_tokens=tokens)
  train, lesson = run.train, None
  if program == "distill":
    phases = plan_phases(run.distill, stage)
    stage, train = student_stage(stage, phases[-1], ""), phase_run(run, phases[-1]).train
    lesson = Lesson(stage, run.distill.loss_weight)  # a halving: teacher and student are the same kind of function
  training = make_training(stage, train, mesh, max_tokens=tokens, lesson=lesson)
  return training.step, train.batch_size, model_flops(training)


def _sampled(stage: StageSpec) -> dict[str, Any]:
  """The part of the stage's sampling on which its step depends."""
  sampling = stage.sampling
  weights = [sampling.guidance.weight] + ([] if sampling.guidance.low is None else [sampling.guidance.low])
  found = dict(sampler=sampling.sampler.value, threshold=sampling.threshold.value, guidance=weights)
  return found | dict(evaluations=evaluations_per_step(stage, sampling))


def format_report(report: dict[str, Any]) -> str:
  """The report as lines of a table."""
  memory, chips = report["bytes_per_chip"], report["chips"]
  where = f"{report['slices']} x {report['topology']}" if report["slices"] > 1 else report["topology"]
  lines = [
    f"stage        {report['stage']}, {report['program']} step of {report['clips']} clips on {where} ({chips} chips)",
    "mesh         " + " x ".join(f"{axis}={size}" for axis, size in report["mesh"].items() if size > 1),
    f"parameters   {report['parameters']:,}",
    *_sampled_line(report["sampling"]),
    f"arithmetic   {report['model_flops'] / 1e12:,.1f} TFLOP of the model, {report['model_flops'] / chips / 1e12:,.2f} per chip",
    f"memory       {memory['total'] / 1e9:.1f} of {memory['hbm'] / 1e9:.0f} GB per chip: arguments {memory['arguments'] / 1e9:.1f}, "
    f"temporaries {memory['temporaries'] / 1e9:.1f}",
    f"compiling    {report['lower_seconds']:.0f} s to lower, {report['compile_seconds']:.0f} s to compile",
  ]
  for kind, link in report["collectives"].items():
    lines.append(
      f"collectives  {kind:<18} {link['count']:>6} x, {link['bytes'] / 1e9:8.2f} GB per chip, {link['seconds']:.3f} s if not hidden"
    )
  for kind, sent in report["between_slices"].items():
    lines.append(f"network      {kind:<18} {sent['count']:>6} x, {sent['bytes'] / 1e9:8.2f} GB sent by each chip between slices")
  if report["fit_only"]:
    return "\n".join([*lines, "time         not estimated (--fit)"])
  mfu = f"MFU {report['mfu']:.2f} with collectives hidden, {report['mfu_exposed']:.2f} exposed"
  lines.append(f"time         {report['step_seconds']:.3f} s per step before collectives, {mfu}")
  lines += [f"  {100 * share:5.1f} %    {name}" for name, share in report["where"].items()]
  return "\n".join(lines)


def _sampled_line(sampled: dict[str, Any] | None) -> list[str]:
  if sampled is None:
    return []
  weights = ":".join(f"{weight:g}" for weight in sampled["guidance"])
  evaluations = f"{sampled['evaluations']} evaluation{'s' if sampled['evaluations'] > 1 else ''} per step"
  return [f"sampling     {sampled['sampler']}, threshold {sampled['threshold']}, guidance weight {weights}: {evaluations}"]
