"""A cascade's folder as a whole: its stages, and the text encoder in text/. Writing and updating never lose what is already there."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import ml_dtypes

from ivid.media.files import naming_errors, updated_folder, whole_folder, write_whole
from ivid.media.scratch import locked
from ivid.spec import convert, formats
from ivid.spec.cascade import CascadeSpec
from ivid.spec.compare import stage_difference
from ivid.spec.errors import UserError
from ivid.spec.sampling import SamplingSpec
from ivid.spec.stage import StageSpec
from ivid.text.encoder import TextEncoder, load_encoder
from ivid.weights.cascades import CASCADE_FILE, SPEC_FILE, TEXT_FOLDER, WEIGHTS_FILE, CascadeFolder, file_sha256, open_cascade, read_entry
from ivid.weights.tensors import write_weights


def load_text(cascade: CascadeFolder, stages: tuple[str, ...] = ()) -> TextEncoder:
  """The text encoder of a cascade.

  Raises:
    UserError: it is missing or damaged, differs from the cascade's, or is not the one that `stages` were trained with.
  """
  encoder = load_encoder(cascade.folder / TEXT_FOLDER)
  if encoder.spec.dim != cascade.spec.text.dim:
    reads = f"cascade {cascade.spec.name} reads {cascade.spec.text.dim}"
    raise UserError(f"{cascade.folder / TEXT_FOLDER} gives embeddings of width {encoder.spec.dim}, {reads}")
  for name in stages:
    _check_text(cascade.check(name).spec, encoder)
  return encoder


def write_cascade(
  out: str | os.PathLike[str], cascade: CascadeSpec, stages: Mapping[str, tuple[StageSpec, Any, int]], text_folder: str | os.PathLike[str]
) -> CascadeFolder:
  """Writes EMA weights in bfloat16, specs and the text encoder; a folder that exists is updated, and keeps its other stages.

  The folder is replaced as a whole (ivid.media.files.updated_folder). Where this is not possible, each stage is, and cascade.json last.

  Args:
    stages: by name (spec as trained, parameters, step); a student replaces the stage from which it was distilled.
    text_folder: as ivid.text.encoder.save_encoder writes it.

  Raises:
    UserError: a stage (given or kept) that is untrained, no stage of the cascade, or trained with another text encoder.
  """
  out = pathlib.Path(os.path.realpath(out))  # a link to the folder is kept
  with naming_errors(out):
    out.parent.mkdir(parents=True, exist_ok=True)
  with locked(out.parent):  # otherwise, the second of two writers would drop what the first has added
    return _written(out, cascade, stages, text_folder)


def _written(
  out: pathlib.Path, cascade: CascadeSpec, stages: Mapping[str, tuple[StageSpec, Any, int]], text_folder: str | os.PathLike[str]
) -> CascadeFolder:
  encoder = load_encoder(text_folder)
  for name, (spec, _, step) in stages.items():
    if step < 1:
      raise UserError(f"stage {name} is at step {step}: expected a stage that was trained")
    difference = stage_difference(dataclasses.replace(spec, student=None, sampling=SamplingSpec()), cascade.stage(name), text_encoder=False)
    if difference:
      raise UserError(f"weights given for stage {name} are of another stage: {difference}")
    _check_text(spec, encoder)
  trained = {name: spec for name, (spec, _, _) in stages.items()}
  for name in cascade.stage_names:
    if name not in stages and CascadeFolder(out, cascade).trained(name):
      trained[name] = read_entry(out / name / SPEC_FILE).spec
  cascade = _with_students(cascade, trained)
  old = CascadeFolder(out, cascade)
  for name in trained.keys() - stages.keys():
    _check_text(old.check(name).spec, encoder)
  if out.exists() and not (out / CASCADE_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
    raise UserError(f"{out} is neither a cascade nor empty: expected a new folder or one with {CASCADE_FILE}")
  with updated_folder(out) as folder:
    _update(folder, cascade, stages, text_folder)
  return open_cascade(out)


def _with_students(cascade: CascadeSpec, trained: Mapping[str, StageSpec]) -> CascadeSpec:
  """The cascade whose distilled stages have the specs of their students, with the sampling that those were made for."""

  def one(stage: StageSpec) -> StageSpec:
    have = trained.get(stage.name)
    return dataclasses.replace(stage, student=have.student, sampling=have.sampling) if have and have.student else stage

  return dataclasses.replace(cascade, stages=tuple(map(one, cascade.stages)))


def _update(
  folder: pathlib.Path, cascade: CascadeSpec, stages: Mapping[str, tuple[StageSpec, Any, int]], text: str | os.PathLike[str]
) -> None:
  text = pathlib.Path(text)
  if not _same_encoder(text, folder / TEXT_FOLDER):
    with whole_folder(folder / TEXT_FOLDER) as fresh:
      shutil.copytree(text, fresh, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
  for name, (spec, params, step) in stages.items():
    with whole_folder(folder / name) as fresh:
      write_weights(fresh / WEIGHTS_FILE, params, dtype=ml_dtypes.bfloat16, metadata={"stage": name, "step": str(step)})
      entry = {"spec": convert.to_dict(spec), "step": step, "sha256": file_sha256(fresh / WEIGHTS_FILE)}
      write_whole(fresh / SPEC_FILE, json.dumps(formats.stamped(entry), indent=1) + "\n")
  written = CascadeFolder(folder, cascade)
  entries = {name: written.check(name) for name in cascade.stage_names if written.trained(name)}
  manifest = {name: {"step": entry.step, "sha256": entry.sha256} for name, entry in entries.items()}
  contents = formats.stamped({"cascade": convert.to_dict(cascade), "manifest": manifest})
  write_whole(folder / CASCADE_FILE, json.dumps(contents, indent=1) + "\n")


def _same_encoder(a: pathlib.Path, b: pathlib.Path) -> bool:
  """Whether a folder is another, or begins with its very files (`whole_folder`)."""
  files = [folder / name for folder in (a, b) for name in (SPEC_FILE, WEIGHTS_FILE)]
  return all(file.exists() for file in files) and all(x.samefile(y) for x, y in zip(files[:2], files[2:], strict=True))


def _check_text(spec: StageSpec, encoder: TextEncoder) -> None:
  if spec.text_encoder != encoder.hash:
    have = f"the text encoder {spec.text_encoder[:12]}" if spec.text_encoder else "no recorded text encoder"
    raise UserError(f"stage {spec.name} was trained with {have}, this one is {encoder.hash[:12]}")
