"""Measure what clips show: adherence to their prompts, from the pixels alone; FVD; and what super-resolution adds to ground truth.

ivid evaluate --metrics=adherence --cascade=nano --stop_stage=ssr1 --prompts=25 --out=eval
ivid evaluate --metrics=adherence --cascade=nano --images --prompts=100 --out=eval
ivid evaluate --metrics=adherence,fvd --clips=out --real=tfds:clips --out=eval
ivid evaluate --metrics=upsampling --cascade=nano --start_stage=tsr1 --stop_stage=tsr3 --prompts=4 --out=eval
ivid evaluate --metrics=adherence,fvd --watch=runs/base --out=runs/base/eval
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from ivid.bin.flags import define_fields, define_shares, fields_of, parse_flags, read_share
from ivid.bin.options import DEFAULT_CASCADE, define_options, read_options
from ivid.spec.evaluation import EvaluationOptions
from ivid.spec.measures import ADHERENCE, FVD, METRICS, UPSAMPLING, check_measures
from ivid.spec.real import RealClips

if TYPE_CHECKING:
  from ivid.evaluate.prompts import Prompt
  from ivid.spec.stage import StageSpec
  from ivid.weights.cascades import CascadeFolder

OVERRIDES = ("steps", "sampler", "guidance", "threshold", "aug_snr")


def define_flags(values: flags.FlagValues) -> None:
  f: dict[str, Any] = dict(flag_values=values)
  flags.DEFINE_list("metrics", [ADHERENCE], f"What to measure: {', '.join(METRICS)}.", **f)
  flags.DEFINE_alias("metric", "metrics", **f)
  flags.DEFINE_bool("images", False, "With adherence: single images of the base stage, of prompts without motion.", **f)
  flags.DEFINE_integer("prompts", 25, "Prompts of each seeded group: one and two objects, drawn in training and held out from it.", **f)
  flags.DEFINE_list("groups", [], "Which of the seeded groups (default: all): one, two, one_held_out, two_held_out.", **f)
  flags.DEFINE_integer("seed", 0, "Of the prompts and of the samples.", **f)
  flags.DEFINE_string("cascade", "", f"Folder of a cascade, or the name of one that ships (default: {DEFAULT_CASCADE}).", **f)
  flags.DEFINE_string("stop_stage", "", "Stage whose clips are judged (default: the last trained one of the chain).", **f)
  define_fields(values, RealClips, prefix="With fvd: ")
  define_fields(values, EvaluationOptions)
  define_options(values, OVERRIDES)
  flags.DEFINE_integer("batch_size", 8, "Clips or images sampled together.", **f)
  flags.DEFINE_string("out", "eval", "Folder of the results.", **f)
  define_shares(values)


def main(argv: Sequence[str]) -> None:
  """Measures as argv (program name first) says. Wrong input is a UserError before any work is done."""
  values = parse_flags(argv, define_flags).flags
  names = ("clips", "cascade", "start_stage", "stop_stage", "images", "batch_size")
  given: dict[str, Any] = {name: values[name].value for name in names}
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
  for metric in dict.fromkeys(values.metrics):
    {ADHERENCE: _adherence, FVD: _fvd, UPSAMPLING: _upsampling}[metric](values, process)


def _adherence(values: flags.FlagValues, process: tuple[int, int] | None) -> None:
  """Judges a folder's clips, or a cascade's clips or images of prompts; prints one row per group of prompts."""
  from ivid.evaluate import judged
  from ivid.runs.evaluating import report_adherence

  if values.clips:
    judging = judged.from_folder(values.clips, _prompts(values) if values.prompts_file else None)
  else:
    chosen, cascade = _prompts(values), _cascade(values)
    stages = _stages(values, cascade, stop=values.stop_stage or (cascade.spec.stage_names[0] if values.images else ""))
    stages = (judged.one_image(stages),) if values.images else stages
    judging = judged.from_cascade(cascade, stages, chosen, seed=values.seed, batch_size=values.batch_size)
  report_adherence(judging, values.out, process)


def _fvd(values: flags.FlagValues, process: tuple[int, int] | None) -> None:
  """Compares a folder's clips, or a cascade's, with real ones; prints a row per distance."""
  from ivid.evaluate import clip_sets
  from ivid.runs.fvd import report_fvd

  wanted = fields_of(values, RealClips)
  if values.clips:
    judged = clip_sets.folder_clips(values.clips)
  else:
    chosen, cascade = _prompts(values), _cascade(values)
    stages = _stages(values, cascade, stop=values.stop_stage)
    judged = clip_sets.cascade_clips(cascade, stages, chosen, seed=values.seed, batch_size=values.batch_size)
  report_fvd(judged, wanted, values.out, process, groups=values.groups, seed=values.seed)


def _upsampling(values: flags.FlagValues, process: tuple[int, int] | None) -> None:
  """Ground truth, drawn or a user's, through the stages; prints a row per stage."""
  from ivid.runs.evaluating import report_upsampling

  cascade = _cascade(values)
  stages = _stages(values, cascade, start=values.start_stage or cascade.spec.stage_names[:2][-1], stop=values.stop_stage)
  prompts = [] if values.clips else _prompts(values)
  report_upsampling(cascade, stages, prompts, values.out, process, seed=values.seed, folder=values.clips)


def _prompts(values: flags.FlagValues) -> list[Prompt]:
  from ivid.evaluate.prompts import asked

  return asked(values.prompts_file, seed=values.seed, count=values.prompts, groups=values.groups, images=values.images)


def _cascade(values: flags.FlagValues) -> CascadeFolder:
  from ivid.runs.cache import enable_compilation_cache
  from ivid.weights.opening import find_cascade

  enable_compilation_cache()
  return find_cascade(values.cascade or DEFAULT_CASCADE)


def _stages(values: flags.FlagValues, cascade: CascadeFolder, *, start: str = "", stop: str) -> tuple[StageSpec, ...]:
  """The cascade's stages as they are to be sampled."""
  from ivid.sample.plan import plan_stages

  return plan_stages(cascade, start=start, stop=stop, overrides=read_options(values, OVERRIDES))
