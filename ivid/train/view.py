"""A stage at the size it is trained on."""

from __future__ import annotations

import dataclasses

from ivid.spec.run import TrainSpec
from ivid.spec.stage import StageSpec


def training_view(spec: StageSpec, train: TrainSpec) -> StageSpec:
  """The stage at the size it is trained on: fewer frames spread over the clip, or a crop. The parameters are the same."""
  output = spec.output
  frames = train.crop.frames or train.frames or output.frames
  fps = output.fps * train.frames / output.frames if train.frames else output.fps
  size = dict(frames=frames, height=train.crop.height or output.height, width=train.crop.width or output.width)
  view = dataclasses.replace(output, fps=fps, **size)
  if spec.lowres is None:
    return dataclasses.replace(spec, output=view)
  small = spec.lowres.input
  small = dataclasses.replace(
    small,
    frames=frames // spec.time_factor,
    height=size["height"] * small.height // output.height,
    width=size["width"] * small.width // output.width,
    fps=fps / spec.time_factor,
  )
  return dataclasses.replace(spec, output=view, lowres=dataclasses.replace(spec.lowres, input=small))
