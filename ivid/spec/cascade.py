"""A cascade: a text encoder and stages that chain."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ivid.spec.errors import UserError, nearest
from ivid.spec.limits import MOST_CHANNELS, MOST_LAYERS, MOST_TOKENS, MOST_VOCABULARY
from ivid.spec.names import check_name
from ivid.spec.ranges import Range, check_ranges
from ivid.spec.stage import StageSpec, Task


@dataclasses.dataclass(frozen=True)
class TextSpec:
  """A T5 v1.1 encoder (1910.10683, 2002.05202) and its tokenizer."""

  name: str = "nano"
  tokenizer: str = "bytes"  # "bytes" as in ByT5, or the path of a SentencePiece .model file
  vocab_size: Annotated[int, Range(1, MOST_VOCABULARY)] = 384
  dim: Annotated[int, Range(1, MOST_CHANNELS)] = 256
  layers: Annotated[int, Range(1, MOST_LAYERS)] = 5
  heads: Annotated[int, Range(1, MOST_CHANNELS)] = 8
  head_dim: Annotated[int, Range(1, MOST_CHANNELS)] = 32
  mlp_dim: Annotated[int, Range(1, MOST_CHANNELS)] = 832
  relative_buckets: Annotated[int, Range(4, MOST_TOKENS)] = 32  # half of them for either direction, half of those for one distance each
  relative_distance: Annotated[int, Range(2, MOST_TOKENS)] = 128
  max_tokens: Annotated[int, Range(1, MOST_TOKENS)] = 128
  dtype: str = "float32"  # that the network computes in
  param_dtype: str = "bfloat16"  # that the weights are stored and rounded to

  def __post_init__(self):
    check_name(self.name, "text encoder")
    check_ranges(self, "text.")
    if self.relative_distance <= self.relative_buckets // 4:
      raise UserError(
        f"text.relative_distance={self.relative_distance}: expected more than the {self.relative_buckets // 4} that "
        f"relative_buckets={self.relative_buckets} tell apart"
      )
    for name in ("dtype", "param_dtype"):
      if getattr(self, name) not in ("float32", "bfloat16"):
        raise UserError(f"text.{name}={getattr(self, name)!r}: expected 'float32' or 'bfloat16' (T5 overflows in float16)")


@dataclasses.dataclass(frozen=True)
class CascadeSpec:
  """Stages in the order they run. Each stage's input must be the output of the stage before it."""

  name: str
  text: TextSpec
  stages: tuple[StageSpec, ...]

  def __post_init__(self):
    check_name(self.name, "cascade")
    if not self.stages:
      raise UserError(f"cascade {self.name}: no stages")
    names = self.stage_names
    if len(set(names)) != len(names):
      raise UserError(f"cascade {self.name}: stage names repeat: {', '.join(names)}")
    if self.stages[0].task is not Task.BASE:
      raise UserError(f"cascade {self.name}: first stage {names[0]} has task {self.stages[0].task.value}, expected base")
    for stage in self.stages:
      if stage.unet.text_dim != self.text.dim:
        raise UserError(
          f"cascade {self.name}: stage {stage.name} reads text of width {stage.unet.text_dim}, the encoder gives {self.text.dim}"
        )
    for before, stage in zip(self.stages, self.stages[1:], strict=False):
      if stage.lowres is None:
        expected = " or ".join(task.value for task in Task if task is not Task.BASE)
        raise UserError(f"cascade {self.name}: stage {stage.name} after {before.name} has task base, expected {expected}")
      for field in dataclasses.fields(before.output):
        have, want = getattr(before.output, field.name), getattr(stage.lowres.input, field.name)
        if have != want:
          raise UserError(
            f"cascade {self.name}: stage {stage.name} expects input {field.name}={want}, but stage {before.name} gives {field.name}={have}"
          )

  @property
  def stage_names(self) -> tuple[str, ...]:
    return tuple(stage.name for stage in self.stages)

  @property
  def aspect(self) -> float:
    """Width over height of what a clip shows: the last stage's, as stages before it may squeeze the picture."""
    return self.stages[-1].output.width / self.stages[-1].output.height

  def stage(self, name: str) -> StageSpec:
    """The stage of that name; UserError naming the nearest one otherwise."""
    for stage in self.stages:
      if stage.name == name:
        return stage
    raise UserError(f"unknown stage {name!r}: {nearest(name, self.stage_names)}")

  def with_text_encoder(self, digest: str) -> CascadeSpec:
    """The cascade whose stages all read the text encoder of that hash."""
    return dataclasses.replace(self, stages=tuple(dataclasses.replace(stage, text_encoder=digest) for stage in self.stages))
