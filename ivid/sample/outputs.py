"""Clips of a run as files: names, the JSON beside and inside each, and never losing a file that is there."""

from __future__ import annotations

import filecmp
import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import ivid
from ivid.media.clips import read_metadata, write_clip
from ivid.media.pictures import write_png
from ivid.sample.keys import Sample
from ivid.sample.runner import Clip
from ivid.sample.tiling import stage_tiling
from ivid.spec import convert, formats
from ivid.spec.errors import UserError, nearest
from ivid.spec.files import as_spec, read_json
from ivid.spec.record import ClipRecord
from ivid.spec.stage import StageSpec
from ivid.weights.cascades import CascadeFolder

FORMATS = ("mp4", "webm", "gif", "png")
SLUG_LENGTH = 40  # characters of the prompt in a file's name


class Outputs:
  """Where a run's files go: a folder, or one file.

  A file with other content that stands in the way is kept, and the new one gets a number (`name_2.mp4`), unless `overwrite`.
  """

  def __init__(self, out: str, format: str, *, clips: int, overwrite: bool = False):
    """Args: out: folder, or a file with a format's suffix; format: of FORMATS, or empty for the file's own (else mp4).

    Raises:
      UserError: unknown format, a format that contradicts the file's suffix, or one file for several clips.
    """
    path = pathlib.Path(out)
    suffix = path.suffix.lower().removeprefix(".")
    if format and format not in FORMATS:
      raise UserError(f"unknown format {format!r}: {nearest(format, FORMATS)}")
    self._file = path.stem if suffix in FORMATS and not path.is_dir() else ""
    if self._file and format and format != suffix:
      raise UserError(f"format={format} contradicts out={out}: expected a folder, or a file that ends with .{format}")
    if self._file and clips > 1:
      raise UserError(f"out={out} is one file for {clips} clips: expected a folder")
    self.folder = path.parent if self._file else path
    self.suffix = suffix if self._file else format or "mp4"
    self._overwrite = overwrite

  def check(self, stages: list[StageSpec]) -> None:
    """Makes the folder and writes (and removes) a black clip of each size: what cannot be written is found before any work.

    Raises:
      UserError: the folder cannot be made or written, or the format takes no clip of that size.
    """
    probe = self.folder / f".probe{os.getpid()}.{self.suffix}"
    for spec in stages:
      write_clip(probe, np.zeros((2, *spec.output.array[1:]), np.uint8), spec.output.fps)
      probe.unlink()

  def stem(self, sample: Sample, stage: str = "") -> str:
    """Name without suffix: the file's own, or prompt-sSEED-NUMBER; the stage behind it if it is not the last."""
    own = self._file or f"{slug(sample.prompt)}-s{sample.seed}-{sample.number}"
    return f"{own}-{stage}" if stage else own

  def save(self, stem: str, frames: np.ndarray, fps: float, metadata: dict[str, Any], *, suffix: str = "") -> pathlib.Path:
    """Writes the clip [T, H, W, 3] uint8 and its JSON, and returns the clip's name; `suffix`: another format than the run's."""
    kinds = [suffix or self.suffix, "json"]
    temporary = [self.folder / f".{stem}.{os.getpid()}.new.{kind}" for kind in kinds]
    write_clip(temporary[0], frames, fps, metadata=metadata)
    temporary[1].write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
    return self._place(temporary, stem, kinds)

  def save_sheet(self, stem: str, picture: np.ndarray) -> pathlib.Path:
    """Writes a picture [H, W, 3] uint8 as PNG, and returns its name."""
    temporary = self.folder / f".{stem}.{os.getpid()}.new.png"
    write_png(temporary, picture)
    return self._place([temporary], stem, ["png"])

  def _place(self, temporary: list[pathlib.Path], stem: str, kinds: list[str]) -> pathlib.Path:
    """Renames finished files to the first name that is free or holds the same already."""
    for number in itertools.count(1):
      name = stem if number == 1 else f"{stem}_{number}"
      targets = [self.folder / f"{name}.{kind}" for kind in kinds]
      pairs = list(zip(temporary, targets, strict=True))
      free = not any(target.exists() for target in targets)
      if free or self._overwrite or all(target.is_file() and filecmp.cmp(new, target, shallow=False) for new, target in pairs):
        for new, target in pairs:
          os.replace(new, target)
        return targets[0]
    raise AssertionError("itertools.count ended")


def slug(prompt: str) -> str:
  """The prompt's letters and digits in lower case, other runs of characters as one dash, cut to SLUG_LENGTH."""
  words = "".join(c if c.isalnum() else " " for c in prompt.lower()).split()
  return "-".join(words)[:SLUG_LENGTH].strip("-") or "clip"


def clip_metadata(
  cascade: CascadeFolder,
  stages: list[StageSpec],
  sample: Sample,
  clip: Clip,
  *,
  tiles: Mapping[str, Sequence[int]],
  source: dict[str, Any] | None,
) -> dict[str, Any]:
  """Everything the clip follows from: what `--from_metadata` reads.

  Args:
    stages: those that ran up to this clip's.
    tiles: as run_cascade was given them.
    source: file, SHA-256 and changes of the clip that the first stage started from, if any.
  """
  output = clip.stage.output
  entries = [(spec, cascade.check(spec.name)) for spec in stages]
  return {
    formats.KEY: formats.FORMAT,
    "ivid": ivid.__version__,
    "prompt": sample.prompt,
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
        "tile": list(stage_tiling(spec, tiles.get(spec.name, ()), clips=clip.batch_size).window),
      }
      for spec, entry in entries
    ],
    "frames": output.frames,
    "height": output.height,
    "width": output.width,
    "fps": output.fps,
    "batch": {"size": clip.batch_size, "row": clip.row},
    "input": source,
  }


def load_metadata(path: str) -> dict[str, Any]:
  """The metadata of a clip that ivid sampled: from the JSON beside it, or from the clip itself.

  Raises:
    UserError: no such file, or no metadata of ivid in it, or other than it writes.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    raise UserError(f"no metadata at {path}: no such file")
  if file.suffix.lower() == ".json":
    found = read_json(file)
  else:
    found = read_metadata(path)
  if not isinstance(found, dict):
    raise UserError(f"{path} carries no metadata of ivid sample: expected a JSON object with a prompt, a seed and stages")
  read_record(found, source=path)
  return found


def read_record(metadata: Mapping[str, Any], *, source: Any) -> ClipRecord:
  """A clip's metadata by their schema; UserError, which names `source`, if they are not what ivid writes."""
  found = formats.migrate(metadata, formats.Kind.CLIP, source=source)
  return as_spec(ClipRecord, found, source=f"{source} carries no metadata of ivid sample")
