"""What to sample, checked: a cascade's stages, the clips to draw, and the clip from which they start."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ivid.media.fit import fit
from ivid.sample import longer, meshes, outputs, plan, repeat
from ivid.sample.entry import read_entry
from ivid.sample.given import Frames, Given, read_given, repeat_given
from ivid.sample.groups import batches_of, grouped, most_held
from ivid.sample.keys import Sample
from ivid.sample.negative import check_negative
from ivid.sample.runner import Clip, run_cascade
from ivid.sample.sizes import resized, shown_aspect
from ivid.spec import convert
from ivid.spec.errors import UserError
from ivid.spec.limits import LARGEST_SEED, MOST_CLIPS, MOST_SAMPLES
from ivid.spec.ranges import Range
from ivid.spec.record import check_prompt
from ivid.spec.stage import StageSpec
from ivid.weights.cascades import CascadeFolder, file_sha256

SEEDS, NUMBERS, COUNTS = Range(-LARGEST_SEED, LARGEST_SEED), Range(0, LARGEST_SEED), Range(1, MOST_SAMPLES)
BATCHES = Range(0, MOST_CLIPS, words=f"1 or more, at most {MOST_CLIPS}, or 0 for one clip on each device")


@dataclasses.dataclass(frozen=True)
class Request:
  """What to sample.

  Attributes:
    cascade: the opened folder.
    stages: with their sampling.
    samples: the clips to draw.
    batch_size: of the run; 0: one clip per local device.
    mesh: devices on which to sample; None: as many local devices as divide a batch.
    keep: indices of the wanted `samples`.
    tiles: by stage (ivid.sample.plan.plan_tiles).
    first_input: [t, h, w, 3] uint8 from which the first stage starts, or None.
    source: file and SHA-256 of first_input, and what was changed to make it fit; None without first_input.
    given: frames that are given to the base, or None.
    notes: what to tell the user about the request, one line per note.
  """

  cascade: CascadeFolder
  stages: tuple[StageSpec, ...]
  samples: tuple[Sample, ...]
  batch_size: int
  keep: frozenset[int]
  tiles: dict[str, tuple[int, ...]]
  first_input: np.ndarray | None = None
  source: dict[str, Any] | None = None
  given: Given | None = None
  notes: tuple[str, ...] = ()
  mesh: Mesh | None = None

  def groups(self) -> list[list[int]]:
    """Positions of the samples that go through the stages together (ivid.sample.groups), in batches with any kept sample."""
    most = most_held(self.cascade.spec.text, self.stages, batch_size=self.batch_size)
    return grouped(batches_of(len(self.samples), self.batch_size), self.keep, most=most)

  def run(self, *, quiet: bool = False) -> Iterator[Clip]:
    """The clips of all samples from every stage, group by group and within a group stage by stage, including clips that are not kept."""
    for group in self.groups():
      yield from self.run_group(group, quiet=quiet)

  def run_group(self, group: list[int], *, quiet: bool = False) -> Iterator[Clip]:
    """The clips of one group from every stage, stage by stage."""
    samples = [self.samples[n] for n in group]
    options: dict[str, Any] = dict(first_input=self.first_input, tiles=self.tiles, given=self.given)
    options |= dict(batch_size=self.batch_size, mesh=self.mesh)
    for clip in run_cascade(self.cascade, self.stages, samples, quiet=quiet, **options):
      yield dataclasses.replace(clip, index=group[clip.index])

  def stage_after(self, clip: Clip) -> str:
    """Name of the stage that would continue from the clip."""
    return self.stages[self.stages.index(clip.stage) + 1].name

  def metadata(self, clip: Clip) -> dict[str, Any]:
    """Everything that determines the clip."""
    ran = list(self.stages)[: self.stages.index(clip.stage) + 1]
    given = self.given and self.given.record
    return outputs.clip_metadata(self.cascade, ran, self.samples[clip.index], clip, tiles=self.tiles, source=self.source, given=given)


@dataclasses.dataclass(frozen=True)
class Draw:
  """Which clips to draw: for each prompt, numbers `number` to `number + count - 1`. Each clip depends only on its own fields."""

  prompts: tuple[str, ...]
  seed: int = 0
  number: int = 0
  count: int = 1
  negative: str = ""

  def __post_init__(self):
    for name, value, allowed in (("seed", self.seed, SEEDS), ("first_sample", self.number, NUMBERS), ("num_samples", self.count, COUNTS)):
      allowed.check(value, name)
    if len(self.prompts) * self.count > MOST_SAMPLES:
      raise UserError(f"num_samples={self.count} of {len(self.prompts)} prompts: expected at most {MOST_SAMPLES} clips in all")
    for prompt in self.prompts:
      check_prompt(prompt)

  @property
  def samples(self) -> tuple[Sample, ...]:
    """The samples, prompt by prompt; a prompt that is given twice counts once."""
    numbers = range(self.number, self.number + self.count)
    return tuple(Sample(prompt, self.seed, number, self.negative) for prompt in dict.fromkeys(self.prompts) for number in numbers)


def make_request(
  cascade: CascadeFolder,
  draw: Draw,
  *,
  start: str = "",
  stop: str = "",
  overrides: plan.Overrides | None = None,
  first: str | os.PathLike[str] | np.ndarray | None = None,
  first_frame: Frames | None = None,
  given: Frames | tuple[Frames, Iterable[int]] | None = None,
  seconds: float | str | None = None,
  batch_size: int = 0,
  mesh: meshes.Meshes | None = None,
  size: Sequence[int] | None = None,
) -> Request:
  """The request for clips of some prompts.

  Args:
    start, stop: first and last stage; default: the first one, and the last trained one of the chain.
    overrides: changes to the cascade's sampling.
    first: the clip from which a super-resolution stage starts: a file of any size, rate and length, or frames uint8 [t, h, w, 3] at the
      stage's own rate.
    first_frame, given: frames that are given to the base (ivid.sample.given.read_given).
    seconds: length of the clips (ivid.sample.longer); None: the length that the base was trained for.
    batch_size: clips computed together; 0: one per local device, or per part into which the mesh cuts a batch.
    mesh: devices that share a batch, or each clip (ivid.sample.meshes); default: as many local devices as divide a batch.
    size: height and width of the last stage's clips (ivid.sample.sizes); None: its own.

  Raises:
    UserError: a stage that is unknown or untrained, a size that a stage cannot make, a negative prompt (`draw`) beside a distilled stage
      with guidance, an override that cannot be, a clip that is missing, superfluous or unreadable, a mesh that does not divide what runs.
  """
  BATCHES.check(batch_size, "batch_size")
  overrides = overrides or plan.Overrides()
  stages = resized(plan.plan_stages(cascade, start=start, stop=stop, overrides=overrides), size)
  if note := check_negative(stages, draw.negative):
    warnings.warn(note, stacklevel=2)
  trained, (stages, notes) = stages[0].output.frames, longer.lengthen(stages, seconds)
  known = read_given(stages[0], trained=trained, first_frame=first_frame, given=given, aspect=cascade.spec.aspect)
  stages, first_input, source = enter(cascade, stages, first)
  samples, devices = draw.samples, meshes.open_mesh(mesh)
  if devices is not None:
    batch_size = batch_size or meshes.mesh_rows(devices)
    at_once = [longer.at_once(cascade, spec) for spec in stages]
    meshes.check_divides(devices, at_once, batches=map(len, batches_of(len(samples), batch_size)))
  cut = functools.partial(longer.cut_stage, cascade, cut=meshes.cuts_clips(meshes.mesh_spec(devices)))
  tiles = plan.plan_tiles(stages, overrides.tile, cut)
  together = min(len(samples), batch_size or 1)  # the smallest possible group
  plan.check_memory(cascade.spec.text, stages, samples=together, batch_size=batch_size)
  notes += tuple(f"--input={first}: {change}" for change in (source or {}).get("changes", ())) + (known.notes if known else ())
  kept = frozenset(range(len(samples)))
  return Request(cascade, stages, samples, batch_size, kept, tiles, first_input, source, known, notes, devices)


def repeat_request(
  cascade: CascadeFolder, metadata: dict[str, Any], first: str = "", *, said_by: str, mesh: meshes.Meshes | None = None
) -> Request:
  """The request that makes a clip again, to the last bit on the same machine.

  Args:
    first: the clip from which it started, if it is no longer where the metadata say.
    said_by: where the metadata come from, for errors.
    mesh: other devices than those on which it was made, with their own tiles; the result is the same to float32 rounding.

  Raises:
    UserError: the weights or the clip to start from have changed, or there are fewer devices than it was made on.
  """
  record = outputs.read_record(metadata, source=said_by)
  source = convert.to_dict(record.input) or {}
  stages = resized(repeat.repeated_stages(cascade, record), (record.height, record.width) if record.height and record.width else None)
  stages, first_input, found = enter(cascade, stages, first or source.get("file", ""))
  if found and found["sha256"] != source.get("sha256"):
    raise UserError(f"{found['file']} is not the clip that {said_by} started from: its SHA-256 is {found['sha256'][:12]}")
  sample, size, row = repeat.repeated_sample(record), record.batch.size, record.batch.row
  asked = meshes.open_mesh(mesh)
  devices = meshes.reopen_mesh(record.mesh, said_by=said_by) if asked is None else asked
  if devices is not None:
    meshes.check_divides(devices, [longer.at_once(cascade, spec) for spec in stages], batches=[size])
  given = repeat_given(stages[0], record.given, aspect=cascade.spec.aspect, said_by=said_by)
  tiles = repeat.repeated_tiles(cascade, record, stages) if asked is None else {}
  plan.check_memory(cascade.spec.text, stages, samples=size, batch_size=size)
  # The batch is filled with copies: a clip's last bits may depend on the size of its batch and its row, but not on the other rows.
  kept = frozenset([row])
  return Request(cascade, stages, (sample,) * size, size, kept, tiles, first_input, source or None, given, mesh=devices)


def enter(
  cascade: CascadeFolder, stages: tuple[StageSpec, ...], first: str | os.PathLike[str] | np.ndarray | None
) -> tuple[tuple[StageSpec, ...], np.ndarray | None, dict[str, Any] | None]:
  """The stages for the length of the clip `first`, that clip as the first of them takes it, and where it comes from."""
  given = first is not None and not (isinstance(first, str) and not first)
  if stages[0].lowres is None:
    if given:
      shown = f"{first.dtype} {list(first.shape)}" if isinstance(first, np.ndarray) else first
      raise UserError(f"--input={shown}: stage {stages[0].name} starts from noise alone; expected --start_stage too")
    return stages, None, None
  want = stages[0].lowres.input
  if not given:
    raise UserError(f"--start_stage={stages[0].name} needs --input=clip; it takes {want}")
  aspect = shown_aspect(cascade.spec, stages)
  if isinstance(first, np.ndarray):
    if first.dtype != np.uint8 or first.ndim != 4 or first.shape[-1] != 3 or not len(first):
      raise UserError(f"input of {first.dtype} {list(first.shape)}: expected uint8 [frames, height, width, 3]")
    frames = np.stack([fit(frame, want.height, want.width, aspect=aspect) for frame in first])
    source: dict[str, Any] = {"file": "", "sha256": hashlib.sha256(np.ascontiguousarray(first).tobytes()).hexdigest(), "changes": []}
    return plan.plan_length(stages, len(frames)), frames, source
  entry = read_entry(first, want, aspect=aspect, max_seconds=plan.longest_seconds(stages))  # pyright: ignore[reportArgumentType]  something is given, and it is no array
  source: dict[str, Any] = {"file": os.fspath(first), "sha256": file_sha256(pathlib.Path(first)), "changes": list(entry.changes)}  # pyright: ignore[reportArgumentType, reportCallIssue]  something is given, and it is no array
  return plan.plan_length(stages, len(entry.frames)), entry.frames, source
