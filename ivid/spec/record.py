"""What the metadata of a clip say, in the JSON beside it and in the clip itself: all that it follows from."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Annotated, Any, cast

from ivid.spec import convert
from ivid.spec.errors import UserError, shown
from ivid.spec.limits import LARGEST_SEED, MOST_CLIPS, MOST_FPS, MOST_FRAMES, MOST_RESAMPLINGS, MOST_SIDE, MOST_UPDATES
from ivid.spec.names import check_name
from ivid.spec.ranges import Range, check_ranges
from ivid.spec.run import MeshSpec
from ivid.spec.sampling import SamplingSpec
from ivid.spec.stage import PowerRatio

LONGEST_PROMPT = 1 << 16  # characters: MOST_TOKENS of the longest kind
Seed = Annotated[int, Range(-LARGEST_SEED, LARGEST_SEED)]
Number = Annotated[int, Range(0, LARGEST_SEED)]  # of a sample
Side = Annotated[int, Range(0, MOST_SIDE)]


@dataclasses.dataclass(frozen=True)
class CascadeRecord:
  """The cascade, by its name and the hash of its text encoder."""

  name: str
  text_encoder: str = ""

  def __post_init__(self):
    check_name(self.name, "cascade.name")


@dataclasses.dataclass(frozen=True)
class StageRecord:
  """A stage that ran, and how it was sampled; `tile` has frames, height and width, and is missing in the oldest files."""

  name: str
  weights_sha256: str
  sampling: SamplingSpec
  aug_snr: PowerRatio | None
  trained_steps: Annotated[int, Range(0, MOST_UPDATES)] = 0
  size: str = ""
  tile: tuple[Annotated[int, Range(0, MOST_FRAMES)], ...] = ()

  def __post_init__(self):
    check_ranges(self, "stages: ")
    if self.tile and len(self.tile) != 3:
      raise UserError(f"stages: tile={shown(self.tile)}: expected frames, height and width")


@dataclasses.dataclass(frozen=True)
class BatchRecord:
  """The batch that the clip was computed in, and its row there."""

  size: Annotated[int, Range(1, MOST_CLIPS)]
  row: Annotated[int, Range(0, MOST_CLIPS)]

  def __post_init__(self):
    check_ranges(self, "batch.")
    if self.row >= self.size:
      raise UserError(f"batch.row={self.row}: expected 0 to {self.size - 1}, as batch.size={self.size}")


@dataclasses.dataclass(frozen=True)
class InputRecord:
  """The clip that the first stage started from; `file` is empty where that were frames in memory."""

  file: str
  sha256: str
  changes: tuple[str, ...] = ()


class GivenMethod(enum.Enum):
  """How the base was given frames."""

  TRAINED = "trained"  # its network reads them
  REPLACEMENT = "replacement"  # they take their place in z_t, each step several times over (ivid.sample.resampling)


@dataclasses.dataclass(frozen=True)
class GivenSource:
  """A clip that frames were taken from, and which frames of the base's own output they are; `file` is empty for frames in memory."""

  file: str
  sha256: str
  frames: tuple[Annotated[int, Range(0, MOST_FRAMES)], ...]
  changes: tuple[str, ...] = ()

  def __post_init__(self):
    check_ranges(self, "given.sources: ")
    if not self.frames:
      raise UserError("given.sources: frames is empty: expected at least one")


@dataclasses.dataclass(frozen=True)
class GivenRecord:
  """Frames that the base was given, and how; none where it went on from its own alone. `resamplings`: times that each step was made."""

  sources: tuple[GivenSource, ...]
  method: GivenMethod
  resamplings: Annotated[int, Range(1, MOST_RESAMPLINGS)] = 1

  def __post_init__(self):
    check_ranges(self, "given.")


@dataclasses.dataclass(frozen=True)
class ClipRecord:
  """A clip's metadata."""

  prompt: str
  seed: Seed
  sample: Number
  cascade: CascadeRecord
  stages: tuple[StageRecord, ...]
  batch: BatchRecord
  mesh: MeshSpec | None = None  # of the devices that it was computed on; None: not said, before format 2
  input: InputRecord | None = None
  negative_prompt: str = ""
  given: GivenRecord | None = None
  ivid: str = ""  # the version that made it
  frames: Annotated[int, Range(0, MOST_FRAMES)] = 0
  height: Side = 0
  width: Side = 0
  fps: Annotated[float, Range(0, MOST_FPS)] = 0.0

  def __post_init__(self):
    check_ranges(self, "")
    check_prompt(self.prompt)
    check_prompt(self.negative_prompt)
    if not self.stages:
      raise UserError("stages is empty: expected at least one")
    for axis, size in dataclasses.asdict(self.mesh or MeshSpec(data=1)).items():
      if size < 1:
        raise UserError(f"mesh.{axis}={size}: expected 1 or more")


def check_sampling(found: Mapping[str, Any], record: ClipRecord, *, source: Any) -> None:
  """Raises UserError where metadata leave out a part of how a stage was sampled: what is usual now would make another clip in silence.

  Args:
    found: what `record` was read from.
    source: the file's name.
  """
  for said, stage in zip(found["stages"], record.stages, strict=True):
    if missing := _left_out(said["sampling"], convert.to_dict(stage.sampling)):
      raise UserError(f"{source} does not say the {missing} of stage {stage.name}: expected metadata as ivid sample writes them")


def _left_out(said: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
  """The first key that is not in it, such as 'guidance.weight'; empty: there is none."""
  for key, value in whole.items():
    if key not in said:
      return key
    if isinstance(value, dict) and (missing := _left_out(said[key], cast("dict[str, Any]", value))):
      return f"{key}.{missing}"
  return ""


def check_prompt(prompt: str) -> str:
  """The prompt; UserError if it is longer than LONGEST_PROMPT."""
  if len(prompt) > LONGEST_PROMPT:
    raise UserError(f"prompt {shown(prompt)} has {len(prompt)} characters: expected at most {LONGEST_PROMPT}")
  return prompt
