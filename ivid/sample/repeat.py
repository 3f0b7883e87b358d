"""Making a clip again from its metadata."""

from __future__ import annotations

import dataclasses
from typing import Any

from ivid.sample.keys import Sample
from ivid.spec import convert
from ivid.spec.errors import UserError
from ivid.spec.sampling import SamplingSpec
from ivid.spec.stage import StageSpec
from ivid.weights.cascades import CascadeFolder


def repeated_sample(metadata: dict[str, Any]) -> tuple[Sample, int, int]:
  """The sample, and the size of the batch it was computed in and its row there: to the last bit a clip depends on those too."""
  return Sample(metadata["prompt"], metadata["seed"], metadata["sample"]), metadata["batch"]["size"], metadata["batch"]["row"]


def repeated_stages(cascade: CascadeFolder, metadata: dict[str, Any]) -> tuple[StageSpec, ...]:
  """The stages that made the clip, sampled as they were.

  Raises:
    UserError: the cascade's weights are not those that the clip was made with.
  """
  return tuple(_stage(cascade, record) for record in metadata["stages"])


def repeated_tiles(metadata: dict[str, Any]) -> dict[str, tuple[int, ...]]:
  """The tiles that made the clip, by stage."""
  return {record["name"]: tuple(record["tile"]) for record in metadata["stages"] if "tile" in record}


def _stage(cascade: CascadeFolder, record: dict[str, Any]) -> StageSpec:
  name, want = record["name"], record["weights_sha256"]
  have = cascade.check(name).sha256
  if have != want:
    raise UserError(
      f"the clip was made with weights {want[:12]} of stage {name}, {cascade.folder} has {have[:12]}: expected the cascade it was made with"
    )
  spec = cascade.spec.stage(name)
  lowres = spec.lowres and dataclasses.replace(spec.lowres, aug_snr=record["aug_snr"])
  return dataclasses.replace(spec, sampling=convert.from_dict(SamplingSpec, record["sampling"], f"stages.{name}.sampling"), lowres=lowres)
