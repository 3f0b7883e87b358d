"""Making a clip again from its metadata."""

from __future__ import annotations

import dataclasses
import functools
import math

from ivid.sample import longer, plan
from ivid.sample.keys import Sample
from ivid.sample.meshes import cuts_clips
from ivid.spec.errors import UserError
from ivid.spec.record import ClipRecord, StageRecord
from ivid.spec.stage import StageSpec
from ivid.weights.cascades import CascadeFolder


def repeated_sample(record: ClipRecord) -> Sample:
  """The sample. To the last bit, a clip also depends on the size of its batch and its row in it."""
  return Sample(record.prompt, record.seed, record.sample, record.negative_prompt)


def repeated_stages(cascade: CascadeFolder, record: ClipRecord) -> tuple[StageSpec, ...]:
  """The stages that made the clip, sampled as they were.

  Raises:
    UserError: the clip was made with other weights, or the stages do not follow one another in the cascade.
  """
  names, known = tuple(stage.name for stage in record.stages), cascade.spec.stage_names
  first = known.index(cascade.spec.stage(names[0]).name)
  if names != known[first : first + len(names)]:
    raise UserError(f"the clip was made by stages {', '.join(names)}: expected some that follow one another of {', '.join(known)}")
  stages = tuple(_stage(cascade, stage) for stage in record.stages)
  factor = math.prod(stage.time_factor for stage in stages)
  if stages[0].lowres is not None or not record.frames:  # it is as long as its input; the oldest files do not state the length
    return stages
  if record.frames % factor:
    raise UserError(f"frames={record.frames}: expected a multiple of {factor}, as stage {stages[-1].name} makes them")
  return longer.to_length(stages, record.frames // factor)


def repeated_tiles(cascade: CascadeFolder, record: ClipRecord, stages: tuple[StageSpec, ...]) -> dict[str, tuple[int, ...]]:
  """The tiles that made the clip, per stage. Raises UserError for a tile that cannot be used."""
  cut = functools.partial(longer.cut_stage, cascade, cut=record.mesh is not None and cuts_clips(record.mesh))
  return plan.plan_tiles(stages, {stage.name: stage.tile for stage in record.stages if stage.tile}, cut)


def _stage(cascade: CascadeFolder, record: StageRecord) -> StageSpec:
  name, want = record.name, record.weights_sha256
  have = cascade.check(name).sha256
  if have != want:
    raise UserError(
      f"the clip was made with weights {want[:12]} of stage {name}, {cascade.folder} has {have[:12]}: expected the cascade it was made with"
    )
  spec = cascade.spec.stage(name)
  if (record.aug_snr is None) != (spec.lowres is None):
    expected = "null, as it starts from noise alone" if spec.lowres is None else "the power ratio that its input was augmented with"
    raise UserError(f"stage {name} has aug_snr={record.aug_snr}: expected {expected}")
  lowres = spec.lowres and dataclasses.replace(spec.lowres, aug_snr=record.aug_snr)
  return dataclasses.replace(spec, sampling=record.sampling, lowres=lowres)
