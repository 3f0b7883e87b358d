"""The clips of a run as files: their names, and the JSON beside and inside each. No existing file is ever lost."""

from __future__ import annotations

import contextlib
import copy
import filecmp
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import ivid
from ivid.media.clips import read_metadata, write_clip
from ivid.media.files import naming_disk_errors, naming_errors, to_comment, whole_file, write_whole
from ivid.media.pictures import check_grid, write_png
from ivid.media.places import local_path
from ivid.media.scratch import scratch_folder
from ivid.sample.keys import Sample
from ivid.sample.longer import cut_stage
from ivid.sample.meshes import cuts_clips
from ivid.sample.runner import Clip
from ivid.spec import convert, formats
from ivid.spec.errors import UserError, nearest, shown
from ivid.spec.files import as_spec, read_json
from ivid.spec.paths import check_file
from ivid.spec.record import ClipRecord, GivenRecord, check_sampling
from ivid.spec.stage import StageSpec
from ivid.weights.cascades import CascadeFolder

FORMATS = ("mp4", "webm", "gif", "png")
SLUG_LENGTH = 40  # characters of the prompt in a file's name
VBENCH = "vbench"  # names as VBench reads them (2311.17982): PROMPT-NUMBER
LONGEST_NAME = 200  # bytes of a prompt in such a name, which has room for a stage, a number and a suffix in the 255 that file systems take
UNFIT = re.compile(r"^\.|[/\x00-\x1f\x7f-\x9f\u2028\u2029]")
DIGEST = 8  # digits that tell prompts apart whose names had to be changed


class Outputs:
  """The place of a run's files: a folder, or one file.

  If a file with other content is in the way, it is kept and the new file gets a number (`name_2.mp4`); with `overwrite`, only files of this
  run are kept. If a killed run left only a clip or only its JSON, the other file is added.
  """

  def __init__(self, out: str, format: str, *, clips: int, overwrite: bool = False, names: str = ""):
    """What is to be written where.

    Args:
      out: folder, or a file with a format's suffix.
      format: of FORMATS, or empty for the file's own (else mp4).
      names: VBENCH, or empty for short ones with the seed.

    Raises:
      UserError: unknown format or names, a format that contradicts the file's suffix, or one file for several clips or for names.
    """
    if names not in ("", VBENCH):
      raise UserError(f"names={names}: expected {VBENCH}, or none")
    path = local_path(out, "--out")
    suffix = path.suffix.lower().removeprefix(".")
    if format and format not in FORMATS:
      raise UserError(f"unknown format {format!r}: {nearest(format, FORMATS)}")
    self._file = path.stem if suffix in FORMATS and not path.is_dir() else ""
    if self._file and format and format != suffix:
      raise UserError(f"format={format} contradicts out={out}: expected a folder, or a file that ends with .{format}")
    if self._file and clips > 1:
      raise UserError(f"out={out} is one file for {clips} clips: expected a folder")
    if self._file and names:
      raise UserError(f"out={out} is one file, names={names}: expected a folder, for files that are named by their prompts")
    self._names = names
    self.folder = path.parent if self._file else path
    self.suffix = suffix if self._file else format or "mp4"
    self._overwrite = overwrite
    self._made: set[pathlib.Path] = set()
    self._places: Mapping[str, int] = {}

  def numbered(self, places: Mapping[str, int]) -> Outputs:
    """These outputs for a resumable run: names contain each prompt's position, so they belong to the run, and such files are replaced.

    Raises:
      UserError: one file instead of a folder.
    """
    if self._file:
      raise UserError(f"out={self.folder / self._file}.{self.suffix} is one file: expected a folder, in which a run can go on")
    made = copy.copy(self)
    made._overwrite, made._made, made._places = True, set(), places
    return made

  def check(self, stages: list[StageSpec], samples: Sequence[Sample] = ()) -> None:
    """Makes the folder, then writes and removes a black clip of each size, so that problems with writing appear before any work.

    Warns of the prompts of `samples` that are no file's name, if files are to be named by them.

    Raises:
      UserError: the folder cannot be made or written, or the format does not allow clips of that size.
    """
    with self._scratch() as place:
      for spec in stages:
        if self.suffix == "png":
          check_grid(self.folder, *spec.output.array[:3])
        write_clip(place / f"probe.{self.suffix}", np.zeros((2, *spec.output.array[1:]), np.uint8), spec.output.fps)
    for prompt in dict.fromkeys(sample.prompt for sample in samples) if self._names else ():
      if (name := prompt_name(prompt)) != prompt:
        warnings.warn(f"prompt {shown(prompt)} is unfit for a file's name: its clips are named {shown(name)}", stacklevel=2)

  def stem(self, sample: Sample, stage: str = "") -> str:
    """Name without suffix: that of the file, (PLACE-)prompt-sSEED-NUMBER or PROMPT-NUMBER; the stage follows if it is not the last."""
    place = f"{self._places[sample.prompt]:05}-" if self._places else ""
    own = self._file or f"{place}{slug(sample.prompt)}-s{sample.seed}-{sample.number}"
    if self._names:
      own = f"{prompt_name(sample.prompt)}-{sample.number}"
    return f"{own}-{stage}" if stage else own

  def save(self, stem: str, frames: np.ndarray, fps: float, metadata: dict[str, Any], *, suffix: str = "") -> pathlib.Path:
    """Writes the clip [T, H, W, 3] uint8 and its JSON, and returns the clip's name; `suffix` sets another format than the run's."""
    kinds = [suffix or self.suffix, "json"]
    with self._scratch() as place:
      clip, beside = (place / f"{stem}.{kind}" for kind in kinds)
      write_clip(clip, frames, fps, metadata=metadata)
      write_whole(beside, json.dumps(metadata, indent=1) + "\n")
      return self._place([clip, beside], metadata)

  def save_sheet(self, stem: str, picture: np.ndarray) -> pathlib.Path:
    """Writes a picture [H, W, 3] uint8 as PNG, and returns its name."""
    with self._scratch() as place:
      write_png(place / f"{stem}.png", picture)
      return self._place([place / f"{stem}.png"])

  @contextlib.contextmanager
  def _scratch(self) -> Iterator[pathlib.Path]:
    """A folder in which files lie until they are finished."""
    with naming_errors(self.folder):
      self.folder.mkdir(parents=True, exist_ok=True)
    with naming_disk_errors(self.folder), scratch_folder(self.folder) as place:
      yield place

  def _place(self, files: list[pathlib.Path], metadata: dict[str, Any] | None = None) -> pathlib.Path:
    """Renames finished files to the first name that is free for all of them, or for which the other files already exist."""
    for number in itertools.count(1):
      targets = [self.folder / (f"{new.stem}{'' if number == 1 else f'_{number}'}{new.suffix}") for new in files]
      pairs = list(zip(files, targets, strict=True))
      free = self._overwrite and self._made.isdisjoint(targets)
      there = [pair for pair in pairs if os.path.lexists(pair[1])]
      part = metadata if len(there) < len(pairs) else None
      if not free and not all(_is_same(new, target, part) for new, target in there):
        continue
      for new, target in pairs:
        if free and target.is_symlink():
          with whole_file(target) as path:
            shutil.copyfile(new, path)
        elif free or (new, target) not in there:
          os.replace(new, target)
      self._made.update(targets)
      return targets[0]
    raise AssertionError("itertools.count ended")


def _is_same(new: pathlib.Path, old: pathlib.Path, metadata: dict[str, Any] | None) -> bool:
  """Whether two files have the same content; with metadata: whether a file is the clip that they describe."""
  if not old.is_file():
    return False
  if filecmp.cmp(new, old, shallow=False):
    return True
  if metadata is None or old.suffix == ".json":
    return False
  try:
    return to_comment(read_metadata(old)) == to_comment(metadata)
  except UserError:  # it is not a clip
    return False


def slug(prompt: str) -> str:
  """The prompt in lower case with every run of other characters than letters and digits as one dash, cut to SLUG_LENGTH."""
  words = "".join(c if c.isalnum() else " " for c in prompt.lower()).split()
  return "-".join(words)[:SLUG_LENGTH].strip("-") or "clip"


def prompt_name(prompt: str) -> str:
  """The prompt as it is; or, if it is unfit for a file's name, what is left of it and a digest that no other prompt has."""
  whole = prompt.encode("utf-8", "surrogatepass")
  if prompt and not UNFIT.search(prompt) and len(whole) <= LONGEST_NAME:
    return prompt
  left = UNFIT.sub("_", prompt).encode("utf-8", "replace")[: LONGEST_NAME - DIGEST - 1].decode("utf-8", "ignore")
  return f"{left}~{hashlib.sha256(whole).hexdigest()[:DIGEST]}"


def clip_metadata(
  cascade: CascadeFolder,
  stages: list[StageSpec],
  sample: Sample,
  clip: Clip,
  *,
  tiles: Mapping[str, Sequence[int]],
  source: dict[str, Any] | None,
  given: GivenRecord | None = None,
) -> dict[str, Any]:
  """Everything that determines the clip; `--from_metadata` reads it.

  Args:
    stages: the stages up to that of this clip.
    tiles: as passed to run_cascade.
    source: file, SHA-256 and changes of the clip that the first stage started from, if any.
    given: frames that were given to the base, if any.
  """
  output = clip.stage.output
  entries = [(spec, cascade.check(spec.name)) for spec in stages]
  return {
    formats.KEY: formats.FORMAT,
    "ivid": ivid.__version__,
    "prompt": sample.prompt,
    "negative_prompt": sample.negative,
    "seed": sample.seed,
    "sample": sample.number,
    "cascade": {"name": cascade.spec.name, "text_encoder": entries[-1][1].spec.text_encoder},
    "stages": [
      {
        "name": spec.name,
        "trained_steps": entry.step,
        "weights_sha256": entry.sha256,
        "size": str(spec.output),
        "sampling": convert.to_dict(spec.sampling),
        "aug_snr": None if spec.lowres is None else spec.lowres.aug_snr,
        "tile": list(cut_stage(cascade, spec, tiles.get(spec.name, ()), clips=clip.batch_size, cut=cuts_clips(clip.mesh)).window),
      }
      for spec, entry in entries
    ],
    "frames": output.frames,
    "height": output.height,
    "width": output.width,
    "fps": output.fps,
    "batch": {"size": clip.batch_size, "row": clip.row},
    "mesh": convert.to_dict(clip.mesh),
    "input": source,
    "given": convert.to_dict(given),
  }


def load_metadata(path: str) -> dict[str, Any]:
  """The metadata of a clip that ivid sampled: from the JSON beside it, or from the clip itself.

  Raises:
    UserError: there is no such file, or its metadata are missing or not as ivid writes them.
  """
  file = check_file(path, "metadata")
  if file.suffix.lower() == ".json":
    found = read_json(file)
  else:
    found = read_metadata(path)
  if not isinstance(found, dict):
    raise UserError(f"{path} carries no metadata of ivid sample: expected a JSON object with a prompt, a seed and stages")
  read_record(found, source=path)
  return found


def read_record(metadata: Mapping[str, Any], *, source: Any) -> ClipRecord:
  """A clip's metadata, read by their schema. Raises UserError, which names `source`, if they are not as ivid writes them."""
  found = formats.migrate(metadata, formats.Kind.CLIP, source=source)
  record = as_spec(ClipRecord, found, source=f"{source} carries no metadata of ivid sample")
  check_sampling(found, record, source=source)
  return record
