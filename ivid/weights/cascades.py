"""The stages of a cascade on disk: cascade.json, and STAGE/{spec.json, weights.safetensors} for each trained stage."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable
from typing import Annotated, Any

import ml_dtypes

from ivid.spec import formats
from ivid.spec.cascade import CascadeSpec
from ivid.spec.compare import stage_difference
from ivid.spec.errors import UserError
from ivid.spec.files import read_spec
from ivid.spec.limits import MOST_UPDATES
from ivid.spec.paths import instead_of_file, not_missing
from ivid.spec.ranges import Range, check_ranges
from ivid.spec.stage import StageSpec
from ivid.weights.header import read_header
from ivid.weights.tensors import read_weights

CASCADE_FILE, SPEC_FILE, WEIGHTS_FILE, TEXT_FOLDER = "cascade.json", "spec.json", "weights.safetensors", "text"
HASH_CHUNK = 1 << 24


@dataclasses.dataclass(frozen=True)
class TrainedStage:
  """The contents of STAGE/spec.json.

  Attributes:
    spec: the stage for which the weights were trained.
    step: number of training updates.
    sha256: of the weights file.
  """

  spec: StageSpec
  step: Annotated[int, Range(0, MOST_UPDATES)] = 0
  sha256: str = ""

  def __post_init__(self):
    check_ranges(self, "")


@dataclasses.dataclass(frozen=True)
class _Manifest:
  """The contents of cascade.json. The manifest is for people; the record beside the weights is what counts."""

  cascade: CascadeSpec
  manifest: dict[str, Any] = dataclasses.field(default_factory=dict)


class CascadeFolder:
  """An opened cascade folder. Weights are only read when they are asked for."""

  def __init__(self, folder: pathlib.Path, spec: CascadeSpec):
    self.folder = folder
    self.spec = spec

  def trained(self, name: str) -> bool:
    """Whether the folder holds weights of that stage."""
    return (self.folder / self.spec.stage(name).name / SPEC_FILE).is_file()

  def check(self, name: str) -> TrainedStage:
    """The stage's record, checked against its small file and the sizes in the large one, which is cheap enough to do before any work.

    Raises:
      UserError: it is untrained, trained for another stage, or damaged.
    """
    want = self.spec.stage(name)
    folder = self.folder / name
    if not self.trained(name):
      have = [n for n in self.spec.stage_names if self.trained(n)]
      raise UserError(
        f"stage {name} of cascade {self.spec.name} was never trained: {self.folder} has {', '.join(have) or 'no trained stage'}"
      )
    entry = read_entry(folder / SPEC_FILE)
    if entry.step < 1:
      raise UserError(f"stage {name} of cascade {self.spec.name} was never trained: its weights are of step {entry.step}")
    difference = stage_difference(entry.spec, want, text_encoder=False)
    if difference:
      raise UserError(f"{folder} holds weights of another stage than {name}: {difference}")
    read_header(folder / WEIGHTS_FILE)  # raises if it is damaged or truncated
    return entry

  def hashes(self, names: Iterable[str]) -> list[str]:
    """SHA-256 of these stages' weights files. Errors as of `check`."""
    return [self.check(name).sha256 for name in names]

  def load_stage(self, name: str) -> Any:
    """Parameters of the stage as nested dictionaries of numpy arrays in the network's `param_dtype`.

    Raises:
      UserError: as `check`; or the SHA-256 of the weights is not the recorded one.
    """
    entry = self.check(name)
    path = self.folder / name / WEIGHTS_FILE
    found = file_sha256(path)
    if found != entry.sha256:
      raise UserError(f"{path} is damaged: SHA-256 {found[:12]}, expected {entry.sha256[:12]}")
    dtype = ml_dtypes.bfloat16 if entry.spec.unet.param_dtype == "bfloat16" else entry.spec.unet.param_dtype
    return read_weights(path, dtype=dtype)


def open_cascade(folder: str | os.PathLike[str]) -> CascadeFolder:
  """The cascade in the folder; only cascade.json is read.

  Raises:
    UserError: there is no such folder, or cascade.json is missing or damaged.
  """
  folder = pathlib.Path(folder)
  path = folder / CASCADE_FILE
  if instead_of_file(path):
    raise UserError(f"no cascade at {folder}: expected a folder with {CASCADE_FILE}{not_missing(path)}")
  return CascadeFolder(folder, read_spec(_Manifest, path, formats.Kind.CASCADE).cascade)


def file_sha256(path: pathlib.Path) -> str:
  """SHA-256 of a file's bytes."""
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while chunk := file.read(HASH_CHUNK):
      digest.update(chunk)
  return digest.hexdigest()


def read_entry(path: pathlib.Path) -> TrainedStage:
  """Reads a stage's spec.json."""
  return read_spec(TrainedStage, path, formats.Kind.STAGE)
