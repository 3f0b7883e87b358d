"""The report of a distillation, which compares each student with its teacher, from the same noise."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time
import types
from typing import Any

import jax
import numpy as np

from ivid.media.files import write_whole
from ivid.media.pictures import write_png
from ivid.media.plot import plot_metrics, read_metrics
from ivid.media.sheet import contact_sheet
from ivid.runs.samples import SHEET_COLUMNS, held_out_clips
from ivid.runs.text import open_text
from ivid.spec import formats
from ivid.spec.files import read_mapping
from ivid.spec.run import RunSpec
from ivid.spec.stage import StageSpec
from ivid.spec.view import training_view
from ivid.stage import evaluations_per_step
from ivid.train.distill import Phase, teacher_stage
from ivid.train.metrics import metrics_file
from ivid.train.rngs import stream

ROW_FILE, ORIGINAL, GUIDANCE = "report.json", "teacher", "guidance"
ERROR_WEIGHTS, ERROR_LEVELS = 5, 8  # number of guidance weights, and of diffusion times for each
Student = tuple[StageSpec, Any]  # spec and parameters


class Report:
  """Compares students as they are made. A student is only compared once.

  Files in the work folder: report.md and report.json (all, as `rows`), PHASE/report.json (its figures), PHASE/samples.png (teacher,
  student, real clip), PHASE/metrics.png (losses).
  """

  def __init__(self, run: RunSpec, stage: StageSpec, workdir: pathlib.Path, teacher: StageSpec, params: Any):
    self._run, self._stage, self._workdir = run, stage, workdir
    self._original = teacher, params
    self._encoder = open_text(run, pool=False)
    self._held_out = held_out_clips(stage, run, self._encoder, run.distill.num_samples)
    self._sampled: dict[tuple[str, int], tuple[np.ndarray, float]] = {}
    self._rows: list[dict[str, Any]] = []

  def add(self, phase: Phase, student: Student, teacher: Student) -> None:
    """Samples the student and its teacher, and writes the results into the student's folder."""
    path = self._workdir / phase.name / ROW_FILE
    row = read_mapping(path, formats.Kind.REPORT) if path.is_file() else {}
    made = (row.get("updates"), row.get("teacher_hash"), GUIDANCE in row)
    if made != (
      phase.updates,
      student[0].student.teacher,
      True,
    ):  # there is none, the student was trained further, or the report is older than the part on guidance
      row = self._compare(phase, student, teacher)
      write_whole(path, json.dumps(formats.stamped(row), indent=1))
    self._rows.append(row)

  def write(self) -> None:
    """Writes the table of all students."""
    write_whole(self._workdir / ROW_FILE, json.dumps(formats.stamped({"rows": self._rows}), indent=1))
    shape = self._held_out.view.output
    columns = [
      "student",
      "updates",
      "loss first",
      "loss last",
      "evaluations a clip",
      "s a clip",
      "RMS to its teacher",
      "RMS to the first teacher",
    ]
    columns += sorted({name for row in self._rows for name in row["adherence"]})
    lines = [
      f"# {self._stage.name}: students and their teachers",
      "",
      f"{len(self._held_out.captions)} clips of {shape}, the same noise for all; values in [-1, 1]. The first teacher: DDIM,"
      f" {self._rows[0]['first_teacher_steps']} steps, {self._rows[0]['first_teacher_evaluations']} evaluations,"
      f" {self._rows[0]['first_teacher_seconds']:.2f} s per clip.",
      "",
      "| " + " | ".join(columns) + " |",
      "|" + "---|" * len(columns),
    ]
    for row in self._rows:
      cells = [row["student"], str(row["updates"]), f"{row['loss_first']:.4g}", f"{row['loss_last']:.4g}", str(row["evaluations"])]
      cells += [f"{row[name]:.4g}" for name in ("seconds", "rms_to_teacher", "rms_to_first_teacher")]
      cells += [f"{100 * row['adherence'][name]:.0f} %" if name in row["adherence"] else "" for name in columns[len(cells) :]]
      lines.append("| " + " | ".join(cells) + " |")
    for row in self._rows:
      if row[GUIDANCE]:
        lines += ["", f"{row['student']}: x_hat against two evaluations of its teacher, over all levels.", ""]
        lines += [
          "| w | error, % of x_hat | missed of what guidance adds, % | an untrained copy's error, % of x_hat |",
          "|---|---|---|---|",
        ]
        for w, found in row[GUIDANCE].items():
          share = "" if found["of_guidance"] is None else f"{100 * found['of_guidance']:.1f}"
          lines.append(f"| {w} | {100 * found['error']:.2f} | {share} | {100 * found['untrained']:.2f} |")
    write_whole(self._workdir / "report.md", "\n".join(lines) + "\n")

  def _compare(self, phase: Phase, student: Student, teacher: Student) -> dict[str, Any]:
    folder, held_out = self._workdir / phase.name, self._held_out
    guidance = self._stage.sampling.guidance
    first = teacher_stage(self._original[0], self._phase_first_steps(), guidance)
    original, original_seconds = self._sample(ORIGINAL, (first, self._original[1]))
    sampled = teacher_stage(teacher[0], phase.teacher_steps, guidance)
    by_teacher, _ = self._sample(phase.taught_by or ORIGINAL, (sampled, teacher[1]))
    clips, seconds = self._sample(phase.name, student)
    sheet = {"teacher": by_teacher, "student": clips, "real": held_out.real}
    rows, titles = held_out.inputs(sheet)
    header = f"{self._stage.name}: {phase.name}, taught by {phase.taught_by or 'the teacher'} ({phase.teacher_steps} steps)"
    scale = 2 if held_out.view.output.width < 100 else 1
    write_png(folder / "samples.png", contact_sheet(rows, captions=titles, columns=SHEET_COLUMNS, scale=scale, header=header))
    with metrics_file(folder) as logged:
      plot_metrics(logged, folder / "metrics.png")
      _, losses = read_metrics(logged)["train"]["loss"]
    return {
      "student": phase.name,
      "taught_by": phase.taught_by or ORIGINAL,
      "teacher_hash": student[0].student.teacher,
      "updates": phase.updates,
      "loss_first": losses[0],
      "loss_last": losses[-1],
      "evaluations": _evaluations(student[0]),
      "seconds": seconds,
      "first_teacher_steps": first.sampling.steps,
      "first_teacher_evaluations": _evaluations(first),
      "first_teacher_seconds": original_seconds,
      "rms_to_teacher": _rms(clips, by_teacher),
      "rms_to_first_teacher": _rms(clips, original),
      "adherence": self._adherence(student),
      GUIDANCE: {} if phase.student.steps else self._guidance(student, teacher),
    }

  def _guidance(self, student: Student, teacher: Student) -> dict[str, dict[str, float | None]]:
    """What guidance distillation has learned, per guidance weight w, over held-out clips, prompts, noise and all levels.

    `error` is |student - teacher| / |teacher| of x_hat. `untrained` is the same for a student with the teacher's weights, which gives
    x_cond whatever w is. `of_guidance` is |student - teacher| / (w |x_cond - x_uncond|), which is 1 for an untrained copy, and None if
    guidance adds nothing.
    """
    from ivid.programs import Program
    from ivid.stage import Stage

    stages = [Stage(training_view(spec, self._run.train)) for spec, _ in (student, teacher)]
    batch, key = self._held_out.batch(), stream(self._run.train.seed, "guidance_error")
    measure = Program("teaching_error", functools.partial(stages[0].teaching_error, teacher_stage=stages[1])).jit()
    learnt, told = jax.device_put((student[1], teacher[1]))
    found = {}
    distill = self._run.distill
    for w in np.unique(np.linspace(distill.w_min, distill.w_max, ERROR_WEIGHTS, dtype=np.float32)):
      sums = np.zeros(3)  # squared norms of the difference, of x_hat, and of what guidance adds, which an untrained copy misses
      for n in range(ERROR_LEVELS):
        u, level_key = np.float32((n + 0.5) / ERROR_LEVELS), jax.random.fold_in(key, n)
        sums += [np.sum(part) for part in measure(learnt, told, batch, level_key, w=w, u=u)]
      wrong, norm, added = sums
      share = float(np.sqrt(wrong / added)) if w > 0 and added > 0 else None
      found[f"{w:g}"] = dict(error=float(np.sqrt(wrong / norm)), of_guidance=share, untrained=float(np.sqrt(added / norm)))
    return found

  def _phase_first_steps(self) -> int:
    have = self._original[0].student
    return (have.steps if have else 0) or self._run.distill.teacher_steps

  def _sample(self, name: str, student: Student) -> tuple[np.ndarray, float]:
    """Clips uint8, and seconds per clip without compilation."""
    spec, params = student
    key = name, spec.sampling.steps
    if key not in self._sampled:
      view = training_view(spec, self._run.train)
      one = dataclasses.replace(spec.sampling, steps=1) if spec.student is None else spec.sampling
      self._held_out.sample(params, view, one)  # this compiles; the program of a step serves any number of steps
      started = time.perf_counter()
      clips = self._held_out.sample(params, view, spec.sampling)
      self._sampled[key] = clips, (time.perf_counter() - started) / len(clips)
    return self._sampled[key]

  def _adherence(self, student: Student) -> dict[str, float]:
    """How often the student's clips show what their prompts say, per attribute over all groups of prompts."""
    if not self._run.distill.adherence_prompts:
      return {}
    from ivid.runs.adherence import make_adherence
    from ivid.stage import Stage

    spec, params = student
    train = dataclasses.replace(self._run.train, sample_steps=spec.sampling.steps, adherence_prompts=self._run.distill.adherence_prompts)
    judge = make_adherence(Stage(spec), dataclasses.replace(self._run, train=train), self._encoder)
    rates = judge(0, types.SimpleNamespace(ema=params))  # pyright: ignore[reportArgumentType]  all that is read of the state
    names = {name.rpartition("/")[2] for name in rates if name.startswith("adherence/")}
    return {name: float(np.mean([rate for key, rate in rates.items() if key.endswith(f"/{name}")])) for name in sorted(names)}


def _evaluations(spec: StageSpec) -> int:
  return spec.sampling.steps * (evaluations_per_step(spec, spec.sampling))


def _rms(a: np.ndarray, b: np.ndarray) -> float:
  difference = (a.astype(np.float32) - b.astype(np.float32)) / 127.5
  return float(np.sqrt(np.mean(np.square(difference))))
