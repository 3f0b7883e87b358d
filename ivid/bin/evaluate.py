"""Measure what clips show: adherence to their prompts, from the pixels alone; FVD; retrieval; and what super-resolution adds to truth.

ivid evaluate --metrics=adherence --cascade=nano --stop_stage=ssr1 --prompts=25 --out=eval
ivid evaluate --metrics=adherence --cascade=nano --images --prompts=100 --out=eval
ivid evaluate --metrics=adherence,fvd,retrieval --clips=out --real=tfds:clips --out=eval
ivid evaluate --metrics=upsampling --cascade=nano --start_stage=tsr1 --stop_stage=tsr3 --prompts=4 --out=eval
ivid evaluate --metrics=upsampling --clips=FOLDER --start_stage=ssr2 --stop_stage=ssr2 --out=eval
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from ivid.bin.flags import define_fields, define_shares, fields_of, parse_flags, read_share
from ivid.bin.options import DEFAULT_CASCADE, define_options, read_options
from ivid.spec.measures import ADHERENCE, FVD, METRICS, RETRIEVAL, UPSAMPLING, check_measures
from ivid.spec.real import RealClips

if TYPE_CHECKING:
  from ivid.evaluate.judged import Judging
  from ivid.evaluate.prompts import Prompt
  from ivid.spec.stage import StageSpec
  from ivid.weights.cascades import CascadeFolder

Process = tuple[int, int] | None  # which of how many
OVERRIDES = ("steps", "sampler", "guidance", "threshold", "aug_snr")


def define_flags(values: flags.FlagValues) -> None:
  f = dict(flag_values=values)
  flags.DEFINE_list("metrics", [ADHERENCE], f"What to measure: {', '.join(METRICS)}.", **f)
  flags.DEFINE_alias("metric", "metrics", **f)
  flags.DEFINE_bool("images", False, "With adherence: single images of the base stage, of prompts without motion.", **f)
  flags.DEFINE_string("clips", "", "Folder of clips to judge instead of sampling a cascade; with upsampling: of ground truth.", **f)
  flags.DEFINE_string("prompts_file", "", "Text file with a prompt a line, in the grammar of moving_shapes.", **f)
  flags.DEFINE_integer("prompts", 25, "Prompts of each seeded group: one and two objects, drawn in training and held out from it.", **f)
  flags.DEFINE_list("groups", [], "Which of the seeded groups (default: all): one, two, one_held_out, two_held_out.", **f)
  flags.DEFINE_integer("seed", 0, "Of the prompts and of the samples.", **f)
  flags.DEFINE_string("cascade", "", f"Folder of a cascade, or the name of one that ships (default: {DEFAULT_CASCADE}).", **f)
  flags.DEFINE_string("start_stage", "", "With upsampling: the stage whose input the ground truth is shrunk to (default: the second).", **f)
  flags.DEFINE_string("stop_stage", "", "Stage whose clips are judged (default: the last trained one of the chain).", **f)
  define_fields(values, RealClips, prefix="With fvd: ")
  flags.DEFINE_string("retrieval", DEFAULT_CASCADE, "With retrieval: folder of its network, or a cascade that ships with one.", **f)
  define_options(values, OVERRIDES)
  flags.DEFINE_integer("batch_size", 8, "Clips or images sampled together.", **f)
  flags.DEFINE_string("out", "eval", "Folder of the results.", **f)
  define_shares(values)


def main(argv: Sequence[str]) -> None:
  """Measures as argv (program name first) says. Wrong input is a UserError before any work is done."""
  values = parse_flags(argv, define_flags).flags
  given = ("clips", "cascade", "start_stage", "stop_stage", "images", "batch_size")
  check_measures(values.metrics, **{name: values[name].value for name in given})
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
  chosen, cascade = _prompts(values), _cascade(values)
  stages = _stages(values, cascade, stop=values.stop_stage or (cascade.spec.stage_names[0] if values.images else ""))
  stages = (judged.one_image(stages),) if values.images else stages
  return once(judged.from_cascade(cascade, stages, chosen, seed=values.seed, batch_size=values.batch_size))


def _fvd(values: flags.FlagValues, process: Process, judging: Callable[[], Judging]) -> None:
  """Compares a folder's clips, or a cascade's, with real ones; prints a row per distance."""
  from ivid.evaluate import clip_sets
  from ivid.runs.fvd import report_fvd

  if values.clips:
    judged = clip_sets.folder_clips(values.clips)
  else:
    cascade = _cascade(values)
    stages = _stages(values, cascade, stop=values.stop_stage)
    judged = clip_sets.cascade_clips(cascade, stages, judging(), seed=values.seed)
  report_fvd(judged, fields_of(values, RealClips), values.out, process, groups=values.groups, seed=values.seed)


def _upsampling(values: flags.FlagValues, process: Process) -> None:
  """Ground truth, drawn or a user's, through the stages; prints a row per stage."""
  from ivid.runs.evaluating import report_upsampling

  cascade = _cascade(values)
  stages = _stages(values, cascade, start=values.start_stage or cascade.spec.stage_names[:2][-1], stop=values.stop_stage)
  report_upsampling(cascade, stages, values.clips or _prompts(values), values.out, process, seed=values.seed)


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
