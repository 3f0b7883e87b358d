"""Which stages run, and how: the cascade's defaults with a user's overrides."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ivid.sample.streaming import STORED_BYTES, frames_between, is_streamed
from ivid.sample.tiling import Tiling, stage_tiling, stretched
from ivid.spec.cascade import TextSpec
from ivid.spec.errors import UserError, nearest
from ivid.spec.limits import MOST_SAMPLING_STEPS
from ivid.spec.ranges import Range
from ivid.spec.sampling import GuidanceSpec, SamplerKind, SamplingSpec, ThresholdKind
from ivid.spec.stage import StageSpec
from ivid.weights.cascades import CascadeFolder

MEMORY_SHARE = 0.6  # share of the machine's memory that a clip and what is kept of it may take
STEPS = Range(1, MOST_SAMPLING_STEPS)
STATE_BYTES = 10  # per value of the clip: z_t and the previous x_hat in float32, input and output as bytes
OTHERS = "*"  # in a mapping per stage: all stages that are not named
WHOLE = (0, 0, 0)  # a tile that means no tiles
E = TypeVar("E", bound=enum.Enum)


@dataclasses.dataclass(frozen=True)
class Overrides:
  """What may be changed in a cascade's sampling. Each is a value for all stages that run, or a mapping; None keeps the cascade's value.

  In a mapping, OTHERS stands for all stages that are not named: {"base": 64, OTHERS: 16}.

  Attributes:
    steps: number of sampler steps.
    sampler: a SamplerKind or its name.
    guidance: weight w of (1 + w) x_cond - w x_uncond; two weights that alternate; or a GuidanceSpec.
    threshold: a ThresholdKind or its name.
    aug_snr: signal-to-noise power ratio of the noise augmentation of a stage's input.
    tile: frames, height and width of the part that is computed at once, 0 for a whole axis; WHOLE: no tiles; (): automatic.
  """

  steps: int | Mapping[str, int] | None = None
  sampler: SamplerKind | str | Mapping[str, SamplerKind | str] | None = None
  guidance: float | tuple[float, float] | GuidanceSpec | Mapping[str, float | tuple[float, float] | GuidanceSpec] | None = None
  threshold: ThresholdKind | str | Mapping[str, ThresholdKind | str] | None = None
  aug_snr: float | Mapping[str, float] | None = None
  tile: Sequence[int] | Mapping[str, Sequence[int]] | None = None


def plan_stages(cascade: CascadeFolder, *, start: str = "", stop: str = "", overrides: Overrides | None = None) -> tuple[StageSpec, ...]:
  """The stages from `start` (default: the first) to `stop` (default: the last trained one of the chain), with the overrides applied.

  Raises:
    UserError: a stage is unknown or untrained, `stop` is before `start`, or an override is unreadable or names a stage that does not run.
  """
  names = cascade.spec.stage_names
  first = names.index(cascade.spec.stage(start).name) if start else 0
  if stop:
    last = names.index(cascade.spec.stage(stop).name)
    if last < first:
      raise UserError(f"stop_stage={stop} comes before start_stage={names[first]}: expected one of {', '.join(names[first:])}")
  else:
    last = first
    while last + 1 < len(names) and cascade.trained(names[last + 1]):
      last += 1
  running = names[first : last + 1]
  for name in running:
    cascade.check(name)
  return override_stages([cascade.spec.stage(name) for name in running], overrides or Overrides())


def override_stages(stages: Sequence[StageSpec], overrides: Overrides) -> tuple[StageSpec, ...]:
  """The stages with the overrides in their `sampling` and `lowres.aug_snr`.

  Raises:
    UserError: a value is impossible, or is for a stage that does not run.
  """
  names = [spec.name for spec in stages]
  by_stage = {name: by_name(name, getattr(overrides, name), names) for name in ("steps", "sampler", "guidance", "threshold")}
  by_stage["aug_snr"] = by_name("aug_snr", overrides.aug_snr, [spec.name for spec in stages if spec.lowres is not None])
  return tuple(_override(spec, {option: found[spec.name] for option, found in by_stage.items() if spec.name in found}) for spec in stages)


def plan_tiles(
  stages: Sequence[StageSpec],
  tile: Sequence[int] | Mapping[str, Sequence[int]] | None,
  cut: Callable[[StageSpec, Sequence[int]], Tiling] = stage_tiling,
) -> dict[str, tuple[int, ...]]:
  """Tiles per stage, checked.

  Args:
    cut: function that cuts a stage into tiles.

  Raises:
    UserError: a stage does not run, or a tile cannot be used.
  """
  tiles = {name: tuple(value) for name, value in by_name("tile", tile, [spec.name for spec in stages]).items()}
  for spec in stages:
    cut(spec, tiles.get(spec.name, ()))
  return tiles


def plan_length(stages: Sequence[StageSpec], frames: int) -> tuple[StageSpec, ...]:
  """The stages, one after the other, for an input of so many frames.

  Raises:
    UserError: a stage only works with clips of its own length.
  """
  planned = []
  for spec in stages:
    planned.append(stretched(spec, frames))
    frames = planned[-1].output.frames
  return tuple(planned)


def longest_seconds(stages: Sequence[StageSpec]) -> float:
  """The longest clip in seconds: in every stage, the state between two steps must fit into memory, or streamed frames onto the disk."""
  return min(map(_longest, stages))


def _longest(spec: StageSpec) -> float:
  values = spec.output.fps * spec.output.height * spec.output.width * 3
  seconds = clip_memory() / (values * STATE_BYTES)
  if spec.lowres is None or not spec.unet.frame_local or spec.sampling.threshold is ThresholdKind.DYNAMIC:
    return seconds
  small = spec.lowres.input
  read = clip_memory() / (small.fps * small.height * small.width * 3)
  return max(seconds, min(read, MEMORY_SHARE * shutil.disk_usage(tempfile.gettempdir()).free / values))


def _held(spec: StageSpec, clips: int = 1) -> tuple[int, int]:
  """Bytes of memory that a clip takes between the steps of a stage, and after them; `clips`: number computed together."""
  values, tiling = math.prod(spec.output.array), stage_tiling(spec, clips=clips)
  if not is_streamed(spec, tiling):
    return values * STATE_BYTES, values
  after = min(values, STORED_BYTES)
  return frames_between(spec, tiling) * values // spec.output.frames * STATE_BYTES + after, after


def clip_memory() -> float:
  """Bytes of the machine's memory that clips and what is kept of them may take."""
  return MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(text: TextSpec, stages: Sequence[StageSpec], *, samples: int, batch_size: int) -> None:
  """Raises UserError if the embeddings and clips held between stages and a batch's state do not fit clip_memory()."""
  memory = clip_memory()
  together = min(batch_size or 1, samples)
  between, after = zip(*(_held(spec, together) for spec in stages), strict=True)
  held = samples * (2 * text.max_tokens * text.dim + max(after[:-1], default=0))
  state = together * max(between)
  if held + state > memory:
    raise UserError(
      f"{samples} clips, {batch_size or 1} at a time, need {(held + state) / 1e9:.3g} GB between two steps: expected fewer, as there are "
      f"{memory / 1e9:.3g} GB for them"
    )


def by_name(option: str, value: Any, names: Sequence[str]) -> dict[str, Any]:
  """The values of an option per stage: `value` for all of `names`, or those of a mapping, where OTHERS stands for all others.

  Raises:
    UserError: a stage is not among `names`, or no stage takes the option.
  """
  if value is None or (isinstance(value, Mapping) and not value):
    return {}
  if not names:
    raise UserError(f"{option}={value}: no stage that runs takes it")
  if not isinstance(value, Mapping):
    return dict.fromkeys(names, value)
  for name in value:
    if name != OTHERS and name not in names:
      raise UserError(f"{option}={name}={value[name]}: no stage {name!r} that runs takes it: {nearest(name, names)}")
  return {name: value.get(name, value.get(OTHERS)) for name in names if name in value or OTHERS in value}


def _override(spec: StageSpec, values: Mapping[str, Any]) -> StageSpec:
  sampling: dict[str, Any] = {}
  if "steps" in values:
    sampling["steps"] = _steps(values["steps"])
  if "sampler" in values:
    sampling["sampler"] = _choice("sampler", SamplerKind, values["sampler"])
  if "guidance" in values:
    sampling["guidance"] = _guidance(values["guidance"], spec.sampling)
  if "threshold" in values:
    sampling["threshold"] = _choice("threshold", ThresholdKind, values["threshold"])
  spec = dataclasses.replace(spec, sampling=dataclasses.replace(spec.sampling, **sampling))
  if "aug_snr" not in values:
    return spec
  return dataclasses.replace(spec, lowres=dataclasses.replace(spec.lowres, aug_snr=_number("aug_snr", values["aug_snr"])))  # pyright: ignore[reportArgumentType]  only stages with a low-resolution clip have the option


def _steps(value: Any) -> int:
  if isinstance(value, bool) or not isinstance(value, int):
    raise UserError(f"steps={value}: expected a whole number")
  STEPS.check(value, "steps")
  return value


def _guidance(value: Any, default: SamplingSpec) -> GuidanceSpec:
  if isinstance(value, GuidanceSpec):
    return value
  high, low = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
  low = None if low is None else _number("guidance", low)
  return dataclasses.replace(default.guidance, weight=_number("guidance", high), low=low)


def _number(option: str, value: Any) -> float:
  if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
    raise UserError(f"{option}={value}: expected a number")
  return float(value)


def _choice(option: str, kind: type[E], value: Any) -> E:
  try:
    return kind(value)
  except ValueError:
    raise UserError(f"unknown {option} {value!r}: {nearest(str(value), [m.value for m in kind])}") from None
