"""Measure what clips show: adherence to their prompts, from the pixels alone; FVD; retrieval; and what super-resolution adds to truth.

ivid evaluate --metrics=adherence --cascade=nano --stop_stage=ssr1 --prompts=25 --out=eval
ivid evaluate --metrics=adherence --cascade=nano --images --prompts=100 --out=eval
ivid evaluate --metrics=adherence,fvd,retrieval --clips=out --real=tfds:clips --out=eval
ivid evaluate --metrics=upsampling --cascade=nano --start_stage=tsr1 --stop_stage=tsr3 --prompts=4 --out=eval
ivid evaluate --metrics=adherence,fvd --watch=runs/base --out=runs/base/eval
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from ivid.bin.flags import define_fields, define_shares, fields_of, parse_flags, read_share
from ivid.bin.options import DEFAULT_CASCADE, define_options, read_options
from ivid.spec.evaluation import EvaluationOptions
from ivid.spec.measures import ADHERENCE, FVD, METRICS, RETRIEVAL, UPSAMPLING, check_measures
from ivid.spec.real import RealClips

if TYPE_CHECKING:
  from ivid.evaluate.judged import Judging
  from ivid.evaluate.prompts import Prompt
  from ivid.spec.stage import StageSpec
  from ivid.weights.cascades import CascadeFolder

CHECKED = ("clips", "cascade", "start_stage", "stop_stage", "images", "batch_size")
OVERRIDES = ("steps", "sampler", "guidance", "threshold", "aug_snr")


def define_flags(values: flags.FlagValues) -> None:
  f: dict[str, Any] = dict(flag_values=values)
  flags.DEFINE_list("metrics", [ADHERENCE], f"What to measure: {', '.join(METRICS)}.", **f)
  flags.DEFINE_alias("metric", "metrics", **f)
  flags.DEFINE_bool("images", False, "With adherence: single images of the base stage, of prompts without motion.", **f)
  flags.DEFINE_list("groups", [], "Which of the seeded groups (default: all): one, two, one_held_out, two_held_out.", **f)
  define_fields(values, RealClips, prefix="With fvd: ")
  define_fields(values, EvaluationOptions)
  define_options(values, OVERRIDES)
  define_shares(values)


def main(argv: Sequence[str]) -> None:
  """Measures as argv (program name first) says. Wrong input is a UserError before any work is done."""
  values = parse_flags(argv, define_flags).flags
  given: dict[str, Any] = {name: values[name].value for name in CHECKED}
  check_measures(values.metrics, **given)
  typed = {name: values[name].value for name in values if values[name].present}
  fields_of(values, EvaluationOptions).check(list(typed))
  if values.watch:
    from ivid.runs.watching import watch

    return watch(values.watch, values.out, values.metrics, typed)
  if values.table:
    from ivid.measure.table import report_table

    asked = dict(metrics=values.metrics, prompts=_prompts(values), seed=values.seed, batch_size=values.batch_size)
    return report_table(values.table, values.out, **asked, wanted=fields_of(values, RealClips))
  process = read_share(values)
  from ivid.runs import evaluating

  with evaluating.clips_made_once(values.metrics, values.out) as once:
    judging = functools.cache(lambda: _judging(values, once))
    report = {
      ADHERENCE: lambda: evaluating.report_adherence(judging(), values.out, process),
      FVD: lambda: _fvd(values, process, judging),
      RETRIEVAL: lambda: evaluating.report_retrieval(judging(), values.retrieval, values.out, process),
      UPSAMPLING: lambda: _upsampling(values, process),
    }
    for metric in dict.fromkeys(values.metrics):
      report[metric]()


def _judging(values: flags.FlagValues, once: Callable[[Judging], Judging]) -> Judging:
  """A folder's clips, or a cascade's clips or images of prompts."""
  from ivid.evaluate import judged

  if values.clips:
    return judged.from_folder(values.clips, _prompts(values) if values.prompts_file else None)
  chosen, (cascade, stages) = _prompts(values), _plan(values, stop=values.stop_stage or (0 if values.images else ""))
  stages = (judged.one_image(stages),) if values.images else stages
  return once(judged.from_cascade(cascade, stages, chosen, seed=values.seed, batch_size=values.batch_size))


def _fvd(values: flags.FlagValues, process: tuple[int, int] | None, judging: Callable[[], Judging]) -> None:
  """Compares a folder's clips, or a cascade's, with real ones; prints a row per distance."""
  from ivid.evaluate import clip_sets
  from ivid.runs.fvd import report_fvd

  if values.clips:
    judged = clip_sets.folder_clips(values.clips)
  else:
    judged = clip_sets.cascade_clips(*_plan(values, stop=values.stop_stage), judging(), seed=values.seed)
  report_fvd(judged, fields_of(values, RealClips), values.out, process, groups=values.groups, seed=values.seed)


def _upsampling(values: flags.FlagValues, process: tuple[int, int] | None) -> None:
  """Ground truth, drawn or a user's, through the stages; prints a row per stage."""
  from ivid.runs.evaluating import report_upsampling

  cascade, stages = _plan(values, start=values.start_stage or 1, stop=values.stop_stage)
  report_upsampling(cascade, stages, values.clips or _prompts(values), values.out, process, seed=values.seed)


def _prompts(values: flags.FlagValues) -> list[Prompt]:
  from ivid.evaluate.prompts import asked

  return asked(values.prompts_file, seed=values.seed, count=values.prompts, groups=values.groups, images=values.images)


def _plan(values: flags.FlagValues, *, start: str | int = "", stop: str | int) -> tuple[CascadeFolder, tuple[StageSpec, ...]]:
  """The cascade, and its stages as they are to be sampled; a number is the place of a stage, the last one if there are fewer."""
  from ivid.sample.plan import plan_stages
  from ivid.weights.opening import find_cascade

  cascade = find_cascade(values.cascade or DEFAULT_CASCADE)
  first, last = (cascade.spec.stage_names[: at + 1][-1] if isinstance(at, int) else at for at in (start, stop))
  return cascade, plan_stages(cascade, start=first, stop=last, overrides=read_options(values, OVERRIDES))
