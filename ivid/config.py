"""Config files and overrides to RunSpecs; the only place that knows ml_collections.

A config file has `get_config(stage)`, which returns a ConfigDict or a dict of the sections of RunSpec. It states what differs from the
defaults of the specs. Its `cascade` has the stages by name and their `order`; a stage without a `lowres.input` reads the output of the
one before.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import pathlib
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

import ivid
from ivid.spec import convert
from ivid.spec.cascade import CascadeSpec, TextSpec
from ivid.spec.distill import DistillSpec
from ivid.spec.errors import UsageError, UserError, nearest
from ivid.spec.overrides import overridden
from ivid.spec.paths import instead_of_file, not_missing
from ivid.spec.phase import PhaseSpec
from ivid.spec.run import DataSpec, RunMeshSpec, RunSpec, TrainSpec
from ivid.spec.stage import StageSpec, Task


@dataclasses.dataclass(frozen=True)
class CascadeSection:
  """CascadeSpec as a config writes it. It needs `order`, because a ConfigDict sorts its keys."""

  name: str
  order: tuple[str, ...]
  stages: dict[str, StageSpec]
  text: TextSpec = TextSpec()


@dataclasses.dataclass(frozen=True)
class Config:
  """RunSpec as a config writes it."""

  stage: str
  cascade: CascadeSection
  train: TrainSpec = TrainSpec()
  distill: DistillSpec = DistillSpec()
  mesh: RunMeshSpec = RunMeshSpec()
  data: DataSpec = DataSpec()


def load_run(config: str | None, overrides: Sequence[str] = ()) -> RunSpec:
  """The RunSpec of `--config=<config>` with overrides such as `train.batch_size=4`, of any field of the specs.

  Raises:
    UserError: there is no such config, stage or key (the nearest is named), or the spec is inconsistent.
  """
  plain = read_config(config)
  for override in overrides:
    plain = overridden(Config, plain, override)
  if isinstance(plain.get("cascade"), dict):
    plain = plain | {"cascade": _in_order(plain["cascade"])}
  read = convert.from_dict(Config, plain, "config")
  cascade = CascadeSpec(read.cascade.name, read.cascade.text, tuple(read.cascade.stages.values()))
  cascade.stage(read.stage)
  for override in overrides:
    key = override.partition("=")[0]
    _check_phases_keep({"train.optimizer.learning_rate": "train.learning_rate"}.get(key, key), override, "train.phases", read.train.phases)
    if key == "distill.guidance_learning_rate":
      _check_phases_keep("distill.learning_rate", override, "distill.guidance_phases", read.distill.guidance_phases)
  return RunSpec(read.stage, cascade, train=read.train, distill=read.distill, mesh=read.mesh, data=read.data)


def _check_phases_keep(key: str, override: str, where: str, phases: Sequence[PhaseSpec]) -> None:
  """Raises UserError if every phase has its own value for what is overridden; warns if some phases have.

  Args:
    key: SECTION.NAME, with the name that phases use.
    where: key of the phases in the same section.
  """
  section, _, name = key.partition(".")
  known = {field.name for field in dataclasses.fields(PhaseSpec)} - {"name", "steps"}
  if name not in known or not where.startswith(f"{section}."):
    return
  own = [f"{where}[{i}].{name} ({phase.name})" for i, phase in enumerate(phases) if getattr(phase, name) is not None]
  if own and len(own) == len(phases):
    raise UserError(f"--config.{override}: every phase has its own value: expected {', '.join(own)}, or {where}=() too")
  if own:
    warnings.warn(f"--config.{override} leaves phases that have their own value: {', '.join(own)}", stacklevel=3)


def read_config(config: str | None) -> dict[str, Any]:
  """What a config file says about a stage, as plain dictionaries. A config that differs little from another can start from this.

  Args:
    config: as in --config: a file or the name of a config that ships, a colon and a stage.

  Raises:
    UserError: there is no such config, or it is not a config.
  """
  if not config:
    names = ", ".join(shipped_configs())
    raise UsageError(f"--config is missing: expected a file and a stage such as nano:base (configs that ship: {names})")
  file, _, stage = config.partition(":")
  path = pathlib.Path(file) if file.endswith(".py") else _config_folder() / f"{file}.py"
  if instead_of_file(path):
    there = [found.name for found in path.parent.glob("*.py")] if file.endswith(".py") and path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, sorted(there), n=1)
    shipped = shipped_configs()
    if close:
      expected = f"did you mean {str(path.with_name(close[0]))!r}? (or one that ships: {', '.join(shipped)})"
    else:
      expected = f"{nearest(file, shipped)}, or a .py file"
    raise UserError(f"no config {file!r}: {expected}{not_missing(path)}")
  plain = _made(path, stage, f"--config={config}")
  if not isinstance(plain, dict):
    raise UserError(f"--config={config}: get_config gave {plain!r}: expected a ConfigDict or a dict")
  return plain


def _made(path: pathlib.Path, stage: str, said: str) -> Any:
  """The result of a file's get_config, as plain data. Any exception in it is the file's fault and becomes a UserError with the line."""
  spec = importlib.util.spec_from_file_location(f"ivid_config_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)  # pyright: ignore[reportArgumentType]  a path that ends in .py has a loader
  try:
    spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
      raise UserError(f"{said}: expected {path} to have a function get_config(stage)")
    return _plain(module.get_config(stage) if stage else module.get_config())
  except UserError:
    raise
  except SyntaxError as error:
    raise UserError(f"{said}: {error.filename}, line {error.lineno}: no Python: {error.msg}") from None
  except Exception as error:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f"{path}, line {lines[-1]}" if lines else path
    raise UserError(f"{said}: {place}: {type(error).__name__}: {error}") from None


def shipped_configs() -> list[str]:
  """Names of the configs installed with the package."""
  return sorted(path.stem for path in _config_folder().glob("*.py") if path.stem != "__init__")


def _config_folder() -> pathlib.Path:
  found = importlib.util.find_spec("ivid.configs")
  if found is not None and found.submodule_search_locations:
    return pathlib.Path(next(iter(found.submodule_search_locations)))
  return pathlib.Path(ivid.__file__).parent.parent / "configs"  # a checkout that is not installed


def _plain(node: Any) -> Any:
  """A ConfigDict, or anything in it, as dictionaries, lists and scalars."""
  if isinstance(node, ml_collections.FieldReference):
    node = node.get()
  if isinstance(node, ml_collections.ConfigDict | Mapping):
    return {key: _plain(node[key]) for key in node}
  if isinstance(node, list | tuple):
    return [_plain(item) for item in node]
  return convert.to_dict(node)


def _in_order(section: dict[str, Any]) -> dict[str, Any]:
  """The `cascade` section with its stages named and in order. By default, the input of each is the output of the stage before.

  If a section has wrong types, the reader of specs refuses it.
  """
  order, stages = section.get("order"), section.get("stages")
  if not isinstance(order, list) or not isinstance(stages, dict):
    return section
  if not all(isinstance(name, str) for name in order) or not all(isinstance(stage, dict) for stage in stages.values()):
    return section
  ordered, before = {}, None
  for name in order:
    if name not in stages:
      raise UserError(f"cascade.order names unknown stage {name!r}: {nearest(name, stages)}")
    if name in ordered:
      raise UserError(f"cascade.order names stage {name!r} twice: expected each once")
    stage = {"name": name, **stages[name]}
    lowres = None if stage.get("task") == Task.BASE.value else stage.get("lowres", {})
    if isinstance(before, dict) and isinstance(lowres, dict) and isinstance(given := lowres.get("input", {}), dict):
      stage["lowres"] = lowres | {"input": before | given}
    ordered[name], before = stage, stage.get("output")
  return section | {"stages": ordered}
