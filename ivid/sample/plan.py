"""Which stages run and how: the cascade's defaults with a user's overrides, `16` for all stages or `base=64,ssr1=16`."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ivid.sample.cascades import Cascade
from ivid.sample.tiling import parse_tile, stage_tiling, stretched
from ivid.spec.errors import nearest
from ivid.spec.stage import GuidanceSpec, SamplerKind, SamplingSpec, StageSpec, ThresholdKind

STATE_BYTES = 10  # of a value of the clip: z_t and the previous x_hat in float32, input and output in bytes
E = TypeVar("E", bound=enum.Enum)


@dataclasses.dataclass(frozen=True)
class Overrides:
  """What a user may change of the cascade's sampling; each a text for all stages or by stage, empty for the defaults."""

  steps: str = ""
  sampler: str = ""
  guidance: str = ""
  threshold: str = ""
  aug_snr: str = ""


def plan_stages(cascade: Cascade, *, start: str = "", stop: str = "", overrides: Overrides | None = None) -> tuple[StageSpec, ...]:
  """The stages from `start` (default: the first) to `stop` (default: the last trained one of the chain), with overrides in them.

  Raises:
    ValueError: unknown or untrained stage, `stop` before `start`, an override that cannot be read or names a stage that does not run.
  """
  names = cascade.spec.stage_names
  first = names.index(cascade.spec.stage(start).name) if start else 0
  if stop:
    last = names.index(cascade.spec.stage(stop).name)
    if last < first:
      raise ValueError(f"stop_stage={stop} comes before start_stage={names[first]}: expected one of {', '.join(names[first:])}")
  else:
    last = first
    while last + 1 < len(names) and cascade.trained(names[last + 1]):
      last += 1
  running = names[first : last + 1]
  for name in running:
    cascade.check(name)
  return override_stages([cascade.spec.stage(name) for name in running], overrides or Overrides())


def override_stages(stages: Sequence[StageSpec], overrides: Overrides) -> tuple[StageSpec, ...]:
  """The stages with the overrides in their `sampling` and `lowres.aug_snr`."""
  values = {}
  for field in dataclasses.fields(overrides):
    names = [spec.name for spec in stages if field.name != "aug_snr" or spec.lowres is not None]
    values[field.name] = per_stage(field.name, getattr(overrides, field.name), names)
  return tuple(_override(spec, {flag: by_name.get(spec.name) for flag, by_name in values.items()}) for spec in stages)


def plan_tiles(stages: Sequence[StageSpec], text: str) -> dict[str, tuple[int, ...]]:
  """Tiles by stage of `32x768x1280`, `ssr3=32x768x1280,tsr3=whole`; those that a stage cannot be cut in are an error.

  Raises:
    ValueError: a stage that does not run, or a tile that cannot be read or used.
  """
  tiles = {name: parse_tile(value) for name, value in per_stage("tile", text, [spec.name for spec in stages]).items()}
  for spec in stages:
    stage_tiling(spec, tiles.get(spec.name, ()))
  return tiles


def plan_length(stages: Sequence[StageSpec], frames: int) -> tuple[StageSpec, ...]:
  """The stages for an input of that many frames, one after the other.

  Raises:
    ValueError: a stage that knows clips of its own length alone.
  """
  planned = []
  for spec in stages:
    planned.append(stretched(spec, frames))
    frames = planned[-1].output.frames
  return tuple(planned)


def longest_seconds(stages: Sequence[StageSpec], memory: int) -> float:
  """Seconds of clip whose state between two steps, and its bytes, fit `memory` bytes in every stage."""
  return min(memory / (spec.output.fps * spec.output.height * spec.output.width * 3 * STATE_BYTES) for spec in stages)


def per_stage(flag: str, text: str, names: Sequence[str]) -> dict[str, str]:
  """Values by stage of `VALUE`, `STAGE=VALUE,...`, or both: a bare value is for the stages not named."""
  default, named = None, {}
  if text and not names:
    raise ValueError(f"{flag}={text}: no stage that runs takes it")
  for part in filter(None, (p.strip() for p in text.split(","))):
    name, equals, value = part.partition("=")
    if not equals:
      if default is not None:
        raise ValueError(f"{flag}={text}: two values for all stages, {default} and {part}; expected STAGE=VALUE,...")
      default = part
    elif name not in names:
      raise ValueError(f"{flag}={text}: no stage {name!r} that runs takes it: {nearest(name, names)}")
    else:
      named[name] = value
  return ({name: default for name in names} if default is not None else {}) | named


def _override(spec: StageSpec, values: Mapping[str, str | None]) -> StageSpec:
  sampling: dict[str, Any] = {}
  if values["steps"] is not None:
    sampling["steps"] = _steps(values["steps"])
  if values["sampler"] is not None:
    sampling["sampler"] = _choice("sampler", SamplerKind, values["sampler"])
  if values["guidance"] is not None:
    sampling["guidance"] = _guidance(values["guidance"], spec.sampling)
  if values["threshold"] is not None:
    sampling["threshold"] = _choice("threshold", ThresholdKind, values["threshold"])
  spec = dataclasses.replace(spec, sampling=dataclasses.replace(spec.sampling, **sampling))
  if values["aug_snr"] is None:
    return spec
  return dataclasses.replace(spec, lowres=dataclasses.replace(spec.lowres, aug_snr=_number("aug_snr", values["aug_snr"])))


def _steps(text: str) -> int:
  try:
    steps = int(text)
  except ValueError:
    raise ValueError(f"steps={text}: expected a whole number") from None
  if steps < 1:
    raise ValueError(f"steps={text}: expected 1 or more")
  return steps


def _guidance(text: str, default: SamplingSpec) -> GuidanceSpec:
  """`6`, or `15:1`: 15 at first, then 1 and 15 in turn."""
  high, colon, low = text.partition(":")
  part = default.guidance.constant_part
  return GuidanceSpec(_number("guidance", high), _number("guidance", low) if colon else None, part)


def _number(flag: str, text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise ValueError(f"{flag}={text}: expected a number{' or HIGH:LOW such as 15:1' if flag == 'guidance' else ''}")
  return value


def _choice(flag: str, kind: type[E], text: str) -> E:
  try:
    return kind(text)
  except ValueError:
    raise ValueError(f"unknown {flag} {text!r}: {nearest(text, [m.value for m in kind])}") from None
