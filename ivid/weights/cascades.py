"""Stages of a cascade on disk: cascade.json, and STAGE/{spec.json, weights.safetensors} for each trained one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import ml_dtypes

from ivid.spec import convert, formats
from ivid.spec.cascade import CascadeSpec
from ivid.spec.compare import stage_difference
from ivid.spec.errors import UserError
from ivid.spec.paths import instead_of_file, not_missing
from ivid.spec.stage import StageSpec
from ivid.weights.tensors import read_header, read_weights

CASCADE_FILE, SPEC_FILE, WEIGHTS_FILE, TEXT_FOLDER = "cascade.json", "spec.json", "weights.safetensors", "text"
HASH_CHUNK = 1 << 24


@dataclasses.dataclass(frozen=True)
class TrainedStage:
  """What STAGE/spec.json says.

  Attributes:
    spec: what the weights were trained for.
    step: updates they were trained for.
    sha256: of the weights file.
  """

  spec: StageSpec
  step: int
  sha256: str


class CascadeFolder:
  """An opened cascade folder; weights are read when asked for, never before."""

  def __init__(self, folder: pathlib.Path, spec: CascadeSpec):
    self.folder = folder
    self.spec = spec

  def trained(self, name: str) -> bool:
    """Whether the folder holds weights of that stage."""
    return (self.folder / self.spec.stage(name).name / SPEC_FILE).is_file()

  def check(self, name: str) -> TrainedStage:
    """The stage's record, from its small file and the sizes of the large one: cheap enough to run before any work.

    Raises:
      UserError: never trained, trained for another stage, or damaged.
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
    read_header(folder / WEIGHTS_FILE)  # damaged or truncated
    return entry

  def load_stage(self, name: str) -> Any:
    """Parameters of the stage as nested dictionaries of numpy arrays in the network's `param_dtype`.

    Raises:
      UserError: as `check`; and weights whose SHA-256 is not the recorded one.
    """
    entry = self.check(name)
    path = self.folder / name / WEIGHTS_FILE
    found = file_sha256(path)
    if found != entry.sha256:
      raise UserError(f"{path} is damaged: SHA-256 {found[:12]}, expected {entry.sha256[:12]}")
    dtype = ml_dtypes.bfloat16 if entry.spec.unet.param_dtype == "bfloat16" else entry.spec.unet.param_dtype
    return read_weights(path, dtype=dtype)


def open_cascade(folder: str | os.PathLike) -> CascadeFolder:
  """The cascade in the folder; only cascade.json is read.

  Raises:
    UserError: no such folder, no or damaged cascade.json.
  """
  folder = pathlib.Path(folder)
  path = folder / CASCADE_FILE
  if instead_of_file(path):
    raise UserError(f"no cascade at {folder}: expected a folder with {CASCADE_FILE}{not_missing(path)}")
  return CascadeFolder(folder, convert.from_dict(CascadeSpec, _read_json(path, formats.Kind.CASCADE, "cascade")["cascade"]))


def file_sha256(path: pathlib.Path) -> str:
  """SHA-256 of a file's bytes."""
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while chunk := file.read(HASH_CHUNK):
      digest.update(chunk)
  return digest.hexdigest()


def read_entry(path: pathlib.Path) -> TrainedStage:
  """What a stage's spec.json says."""
  found = _read_json(path, formats.Kind.STAGE, "spec")
  return TrainedStage(convert.from_dict(StageSpec, found["spec"]), int(found.get("step", 0)), str(found.get("sha256", "")))


def _read_json(path: pathlib.Path, kind: formats.Kind, key: str) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise UserError(f"{path} is no JSON: {error}") from None
  if not isinstance(found, dict) or key not in found:
    raise UserError(f"{path} has no {key!r} section: expected a file that ivid bundle wrote")
  return formats.migrate(found, kind, source=path)
