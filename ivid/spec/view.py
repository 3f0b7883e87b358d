"""The part of a stage's output that training uses: fewer frames spread over the clip, or a crop."""

from __future__ import annotations

import dataclasses
import math

from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.run import TrainSpec
from ivid.spec.stage import StageSpec


@dataclasses.dataclass(frozen=True)
class View:
  """The part of a stage's output that training uses.

  Attributes:
    clip: the stage's output with only every k-th frame, at the correspondingly lower rate.
    frames, height, width: of the crop.
    align: crops start at multiples of these in time, y and x, where a position of the low-resolution clip starts.
  """

  clip: ClipShape
  frames: int
  height: int
  width: int
  align: tuple[int, int, int]

  @property
  def is_image(self) -> bool:
    return self.frames == 1


def training_view(spec: StageSpec, train: TrainSpec) -> StageSpec:
  """The stage at the size that it is trained on (as `of_clips` has it); its parameters are the same.

  Raises:
    UserError: as in make_view.
  """
  view = make_view(of_clips(train, spec), spec)
  size = dict(frames=view.frames, height=view.height, width=view.width, fps=view.clip.fps)
  output = dataclasses.replace(spec.output, **size)
  if spec.lowres is None:
    return dataclasses.replace(spec, output=output)
  small = spec.lowres.input
  small = dataclasses.replace(
    small,
    frames=view.frames // spec.time_factor,
    height=view.height * small.height // spec.output.height,
    width=view.width * small.width // spec.output.width,
    fps=view.clip.fps / spec.time_factor,
  )
  return dataclasses.replace(spec, output=output, lowres=dataclasses.replace(spec.lowres, input=small))


def of_clips(train: TrainSpec, spec: StageSpec) -> TrainSpec:
  """`train`, except if a temporal stage learns from single pictures: then with the output frames of one input frame."""
  if make_view(train, spec).frames > 1 or spec.time_factor == 1:
    return train
  return dataclasses.replace(train, frames=spec.time_factor, crop=dataclasses.replace(train.crop, frames=0))


def make_view(train: TrainSpec, stage: StageSpec) -> View:
  """The view that `train` takes of the stage's output.

  Raises:
    UserError: train.frames does not divide the clip's frames, or the crop is larger than the clip.
  """
  output = stage.output
  count = train.frames or output.frames
  if count < 0 or output.frames % count:
    divisors = [n for n in range(1, output.frames + 1) if output.frames % n == 0]
    best = min(divisors, key=lambda n: abs(n - count))
    raise UserError(f"train.frames={count} does not divide the {output.frames} frames of stage {stage.name}: nearest {best}, or 0 for all")
  clip = dataclasses.replace(output, frames=count, fps=output.fps * count / output.frames)
  sizes: dict[str, int] = {}
  for side in ("frames", "height", "width"):
    size, limit = getattr(train.crop, side), getattr(clip, side)
    if not 0 <= size <= limit:
      raise UserError(f"train.crop.{side}={size}: expected 1 to {limit}, or 0 for all {limit}")
    sizes[side] = size or limit
  if sizes["frames"] % stage.time_factor and sizes["frames"] != 1:
    raise UserError(f"training on {sizes['frames']} frames: stage {stage.name} needs a multiple of {stage.time_factor}, or 1 for pictures")
  small = output if stage.lowres is None else stage.lowres.input
  align = (_period(output.frames, small.frames), _period(output.height, small.height), _period(output.width, small.width))
  return View(clip, **sizes, align=align)


def _period(big: int, small: int) -> int:
  """The number of positions on the large axis after which its grid meets that of the small axis again."""
  return big // math.gcd(big, small)
