"""A cascade on disk: cascade.json, text/, and STAGE/{spec.json, weights.safetensors} for each trained stage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import ml_dtypes

from ivid.weights import tensors as weights
from ivid.spec import convert, formats
from ivid.spec.cascade import CascadeSpec
from ivid.spec.compare import stage_difference
from ivid.spec.stage import SamplingSpec, StageSpec
from ivid.text.encoder import TextEncoder, load_encoder

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


class Cascade:
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
      ValueError: never trained, trained for another stage, or damaged.
    """
    want = self.spec.stage(name)
    folder = self.folder / name
    if not self.trained(name):
      have = [n for n in self.spec.stage_names if self.trained(n)]
      raise ValueError(
        f"stage {name} of cascade {self.spec.name} was never trained: {self.folder} has {', '.join(have) or 'no trained stage'}"
      )
    entry = _read_entry(folder / SPEC_FILE)
    if entry.step < 1:
      raise ValueError(f"stage {name} of cascade {self.spec.name} was never trained: its weights are of step {entry.step}")
    difference = stage_difference(entry.spec, want, text_encoder=False)
    if difference:
      raise ValueError(f"{folder} holds weights of another stage than {name}: {difference}")
    _check_size(folder / WEIGHTS_FILE)
    return entry

  def load_stage(self, name: str) -> Any:
    """Parameters of the stage as nested dictionaries of numpy arrays in the network's `param_dtype`.

    Raises:
      ValueError: as `check`; and weights whose SHA-256 is not the recorded one.
    """
    entry = self.check(name)
    path = self.folder / name / WEIGHTS_FILE
    found = file_sha256(path)
    if found != entry.sha256:
      raise ValueError(f"{path} is damaged: SHA-256 {found[:12]}, expected {entry.sha256[:12]}")
    dtype = ml_dtypes.bfloat16 if entry.spec.unet.param_dtype == "bfloat16" else entry.spec.unet.param_dtype
    return weights.read_weights(path, dtype=dtype)

  def load_text(self, stages: tuple[str, ...] = ()) -> TextEncoder:
    """The text encoder.

    Raises:
      ValueError: missing or damaged, another than the cascade's, or not the one that `stages` were trained with.
    """
    encoder = load_encoder(self.folder / TEXT_FOLDER)
    if encoder.spec.dim != self.spec.text.dim:
      raise ValueError(
        f"{self.folder / TEXT_FOLDER} gives embeddings of width {encoder.spec.dim}, cascade {self.spec.name} reads {self.spec.text.dim}"
      )
    for name in stages:
      _check_text(self.check(name).spec, encoder)
    return encoder


def open_cascade(folder: str | os.PathLike) -> Cascade:
  """The cascade in the folder; only cascade.json is read.

  Raises:
    ValueError: no such folder, no or damaged cascade.json.
  """
  folder = pathlib.Path(folder)
  path = folder / CASCADE_FILE
  if not path.is_file():
    raise ValueError(f"no cascade at {folder}: expected a folder with {CASCADE_FILE}")
  return Cascade(folder, convert.from_dict(CascadeSpec, _read_json(path, formats.Kind.CASCADE, "cascade")["cascade"]))


def write_cascade(
  out: str | os.PathLike, cascade: CascadeSpec, stages: Mapping[str, tuple[StageSpec, Any, int]], text_folder: str | os.PathLike
) -> Cascade:
  """Writes EMA weights in bfloat16, specs and the text encoder; a folder that exists is updated, and keeps its other stages.

  A new folder appears whole or not at all; in an old one each stage is replaced whole, cascade.json last.

  Args:
    stages: by name (spec as trained, parameters, step); a student takes the place of the stage that it was distilled from.
    text_folder: as ivid.text.encoder.save_encoder writes it.

  Raises:
    ValueError: a stage (given or kept) that is untrained, no stage of the cascade, or trained with another text encoder.
  """
  out = pathlib.Path(out)
  encoder = load_encoder(text_folder)
  for name, (spec, _, step) in stages.items():
    if step < 1:
      raise ValueError(f"stage {name} is at step {step}: expected a stage that was trained")
    difference = stage_difference(dataclasses.replace(spec, student=None, sampling=SamplingSpec()), cascade.stage(name), text_encoder=False)
    if difference:
      raise ValueError(f"weights given for stage {name} are of another stage: {difference}")
    _check_text(spec, encoder)
  trained = {name: spec for name, (spec, _, _) in stages.items()}
  for name in cascade.stage_names:
    if name not in stages and Cascade(out, cascade).trained(name):
      trained[name] = _read_entry(out / name / SPEC_FILE).spec
  cascade = _with_students(cascade, trained)
  old = Cascade(out, cascade)
  for name in trained.keys() - stages.keys():
    _check_text(old.check(name).spec, encoder)
  if (out / CASCADE_FILE).is_file():
    _update(out, cascade, stages, text_folder)
  elif out.exists() and any(out.iterdir()):
    raise ValueError(f"{out} is neither a cascade nor empty: expected a new folder or one with {CASCADE_FILE}")
  else:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.mkdir()
    try:
      _update(temporary, cascade, stages, text_folder)
      if out.exists():
        out.rmdir()
      os.replace(temporary, out)
    finally:
      shutil.rmtree(temporary, ignore_errors=True)
  return open_cascade(out)


def _with_students(cascade: CascadeSpec, trained: Mapping[str, StageSpec]) -> CascadeSpec:
  """The cascade with the distilled among its trained stages as they were distilled, sampled in the way they were made for."""

  def one(stage: StageSpec) -> StageSpec:
    have = trained.get(stage.name)
    return dataclasses.replace(stage, student=have.student, sampling=have.sampling) if have and have.student else stage

  return dataclasses.replace(cascade, stages=tuple(map(one, cascade.stages)))


def file_sha256(path: pathlib.Path) -> str:
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while chunk := file.read(HASH_CHUNK):
      digest.update(chunk)
  return digest.hexdigest()


def _update(folder: pathlib.Path, cascade: CascadeSpec, stages: Mapping[str, tuple[StageSpec, Any, int]], text: str | os.PathLike) -> None:
  text = pathlib.Path(text)
  if not (folder / TEXT_FOLDER).exists() or not text.samefile(folder / TEXT_FOLDER):
    fresh = _temporary(folder, TEXT_FOLDER)
    shutil.copytree(text, fresh, ignore=shutil.ignore_patterns(".*"))
    _swap(fresh, folder / TEXT_FOLDER)
  for name, (spec, params, step) in stages.items():
    fresh = _temporary(folder, name)
    weights.write_weights(fresh / WEIGHTS_FILE, params, dtype=ml_dtypes.bfloat16, metadata={"stage": name, "step": str(step)})
    entry = {"spec": convert.to_dict(spec), "step": step, "sha256": file_sha256(fresh / WEIGHTS_FILE)}
    (fresh / SPEC_FILE).write_text(json.dumps(formats.stamped(entry), indent=1) + "\n", encoding="utf-8")
    _swap(fresh, folder / name)
  written = Cascade(folder, cascade)
  entries = {name: written.check(name) for name in cascade.stage_names if written.trained(name)}
  manifest = {name: {"step": entry.step, "sha256": entry.sha256} for name, entry in entries.items()}
  temporary = folder / f".{CASCADE_FILE}"
  contents = formats.stamped({"cascade": convert.to_dict(cascade), "manifest": manifest})
  temporary.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
  os.replace(temporary, folder / CASCADE_FILE)


def _temporary(folder: pathlib.Path, name: str) -> pathlib.Path:
  path = folder / f".{name}.{os.getpid()}"
  shutil.rmtree(path, ignore_errors=True)
  return path


def _swap(fresh: pathlib.Path, target: pathlib.Path) -> None:
  """Puts a finished folder in the place of an old one."""
  if target.exists():
    old = target.with_name(f".{target.name}.old.{os.getpid()}")
    os.replace(target, old)
    os.replace(fresh, target)
    shutil.rmtree(old)
  else:
    os.replace(fresh, target)


def _check_text(spec: StageSpec, encoder: TextEncoder) -> None:
  if spec.text_encoder != encoder.hash:
    have = f"the text encoder {spec.text_encoder[:12]}" if spec.text_encoder else "no recorded text encoder"
    raise ValueError(f"stage {spec.name} was trained with {have}, this one is {encoder.hash[:12]}")


def _read_json(path: pathlib.Path, kind: formats.Kind, key: str) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ValueError(f"{path} is no JSON: {error}") from None
  if not isinstance(found, dict) or key not in found:
    raise ValueError(f"{path} has no {key!r} section: expected a file that ivid bundle wrote")
  return formats.migrate(found, kind, source=path)


def _read_entry(path: pathlib.Path) -> TrainedStage:
  found = _read_json(path, formats.Kind.STAGE, "spec")
  return TrainedStage(convert.from_dict(StageSpec, found["spec"]), int(found.get("step", 0)), str(found.get("sha256", "")))


def _check_size(path: pathlib.Path) -> None:
  """ValueError unless the safetensors file is there and as long as its own header says."""
  if not path.is_file():
    raise ValueError(f"no weights at {path}: expected a .safetensors file")
  size = path.stat().st_size
  try:
    with open(path, "rb") as file:
      length = int.from_bytes(file.read(8), "little")
      header = json.loads(file.read(min(length, size)))
    want = 8 + length + max(array["data_offsets"][1] for name, array in header.items() if name != "__metadata__")
  except (ValueError, KeyError, TypeError, AttributeError):
    raise ValueError(f"{path} is no readable safetensors file ({size} bytes)") from None
  if size != want:
    raise ValueError(f"{path} is truncated: {size} bytes, expected {want}")
