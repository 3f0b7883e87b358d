"""Config files and overrides to RunSpecs; the only place that knows ml_collections.

A config file has `get_config(stage)`, which returns a ConfigDict or a dict of the sections of RunSpec. It states what differs from the
defaults of the specs. Its `cascade` has the stages by name and their `order`; a stage without a `lowres.input` reads the output of the
one before.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib.util
import pathlib
import re
import typing
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

import ivid
from ivid.spec import convert
from ivid.spec.cascade import CascadeSpec, TextSpec
from ivid.spec.distill import DistillSpec
from ivid.spec.errors import UsageError, UserError, nearest
from ivid.spec.formats import expected_key
from ivid.spec.paths import instead_of_file, not_missing
from ivid.spec.phase import PhaseSpec
from ivid.spec.run import DataSpec, MeshSpec, RunSpec, TrainSpec
from ivid.spec.stage import StageSpec, Task


@dataclasses.dataclass(frozen=True)
class CascadeSection:
  """CascadeSpec as a config writes it. The order is asked for, as a ConfigDict sorts its keys."""

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
  mesh: MeshSpec = MeshSpec()
  data: DataSpec = DataSpec()


def load_run(config: str | None, overrides: Sequence[str] = ()) -> RunSpec:
  """The RunSpec of `--config=<config>` with overrides such as `train.batch_size=4`, of any field of the specs.

  Raises:
    UserError: no such config, stage or key (naming the nearest), or a spec that does not hold together.
  """
  plain = read_config(config)
  for override in overrides:
    plain = _overridden(plain, override)
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
  """UserError where every phase has a value of its own for what is overridden; a warning where some have.

  Args:
    key: SECTION.NAME, with the name that a phase has for it.
    where: the phases' key, of the same section.
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
  """What a config file says about a stage, as plain dictionaries; a config that differs little from another can start from it.

  Args:
    config: as in --config: a file or the name of a config that ships, a colon and a stage.

  Raises:
    UserError: no such config, or one that is none.
  """
  if not config:
    names = ", ".join(shipped_configs())
    raise UsageError(f"--config is missing: expected a file and a stage such as nano:base (configs that ship: {names})")
  file, _, stage = config.partition(":")
  path = pathlib.Path(file) if file.endswith(".py") else _config_folder() / f"{file}.py"
  if instead_of_file(path):
    there = [str(found) for found in sorted(path.parent.glob("*.py"))] if file.endswith(".py") and path.parent.is_dir() else []
    raise UserError(f"no config {file!r}: {nearest(file, [*there, *shipped_configs()])}, or a .py file{not_missing(path)}")
  spec = importlib.util.spec_from_file_location(f"ivid_config_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise UserError(f"--config={config}: expected {path} to have a function get_config(stage)")
  plain = _plain(module.get_config(stage) if stage else module.get_config())
  if not isinstance(plain, dict):
    raise UserError(f"--config={config}: get_config gave {plain!r}: expected a ConfigDict or a dict")
  return plain


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
  """The `cascade` section with its stages in their order and named, their input that of the stage before unless they say otherwise.

  A section of wrong types is left for the reader of specs to refuse.
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


@dataclasses.dataclass(frozen=True)
class _Override:
  """`KEY=VALUE`."""

  key: str
  text: str

  @property
  def said(self) -> str:
    return f"--config.{self.key}={self.text}"


def _overridden(plain: dict[str, Any], override: str) -> dict[str, Any]:
  """The config with KEY=VALUE; KEY has dots, and places in a list in brackets: train.phases[0].steps."""
  key, equals, text = override.partition("=")
  if not equals:
    raise UserError(f"--config.{key}: expected --config.{key}=VALUE")
  if not re.fullmatch(r"[^.\[\]]+(\[\d+\])*(\.[^.\[\]]+(\[\d+\])*)*", key):
    raise UserError(f"--config.{key}: expected names with dots between them, such as --config.train.phases[0].steps=VALUE")
  path = [int(part[1:-1]) if part.startswith("[") else part for part in re.findall(r"\[\d+\]|[^.\[\]]+", key)]
  return _changed(Config, plain, path, _Override(key, text), "config")


def _changed(hint: Any, node: Any, path: Sequence[str | int], override: _Override, at: str) -> Any:
  """`node`, what a config says about a field of type `hint`, with the value at the path's end. What it leaves out starts from defaults.

  Args:
    node: plain data; None where the config says nothing and there is no default.
    at: the path to the node, for errors.
  """
  if not path:
    return _read(hint, node, override, at)
  hint, _ = convert.without_none(hint)
  name, rest = path[0], path[1:]
  if typing.get_origin(hint) is tuple:
    return _changed_item(hint, node or [], path, override, at)
  if isinstance(name, int) or not (dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict):
    more = f"[{name}]" if isinstance(name, int) else f".{name}"
    raise UserError(f"unknown key '{at}{more}': {at} is {_kind(hint)}, expected {_how(hint, at)}")
  if not isinstance(node := {} if node is None else node, dict):
    raise UserError(f"{override.said}: the config has {at}={node!r}, expected a section")
  if typing.get_origin(hint) is dict:
    known = {key: (typing.get_args(hint)[1], None) for key in node}
  else:
    hints = typing.get_type_hints(hint)
    known = {field.name: (hints[field.name], _default(field)) for field in dataclasses.fields(hint)}
  if name not in known:
    places = [path for path in _places(Config, name, "config") if path != f"{at}.{name}"]
    there = f"there is {' and '.join(places)}; " if places else ""
    raise UserError(f"unknown key '{at}.{name}': {there}{expected_key(name, known)}")
  inner, default = known[name]
  return node | {name: _changed(inner, node.get(name, default), rest, override, f"{at}.{name}")}


def _places(hint: Any, name: str, at: str) -> list[str]:
  """Paths of the fields of that name in a section and those below it, without what stands in lists."""
  hints = typing.get_type_hints(hint)
  found = [f"{at}.{name}"] if name in hints else []
  for field in dataclasses.fields(hint):
    inner, _ = convert.without_none(hints[field.name])
    if dataclasses.is_dataclass(inner):
      found += _places(inner, name, f"{at}.{field.name}")
  return found


def _changed_item(hint: Any, node: Any, path: Sequence[str | int], override: _Override, at: str) -> list:
  """_changed of a list."""
  name, rest = path[0], path[1:]
  if not isinstance(node, list):
    raise UserError(f"{override.said}: the config has {at}={node!r}, expected a list")
  if not isinstance(name, int):
    raise UserError(f"unknown key '{at}.{name}': {at} is a list, expected {at}[0].{name}")
  if name >= len(node):
    raise UserError(f"{override.said}: {at} has {len(node)}, expected " + (f"[0] to [{len(node) - 1}]" if node else "the whole list"))
  return [*node[:name], _changed(typing.get_args(hint)[0], node[name], rest, override, f"{at}[{name}]"), *node[name + 1 :]]


def _default(field: dataclasses.Field) -> Any:
  """The default of a field as plain data; None where it has none."""
  return None if field.default is dataclasses.MISSING else convert.to_dict(field.default)


def _read(hint: Any, now: Any, override: _Override, at: str) -> Any:
  """The value of an override as plain data; `now` is what it replaces."""
  value, (inner, optional) = _literal(hint, override.text), convert.without_none(hint)
  try:
    return convert.to_dict(convert.typed(hint, value, at))
  except UserError:
    if isinstance(value, dict) or (isinstance(value, list | tuple) and typing.get_origin(inner) is tuple):
      raise  # names what is wrong within
  if isinstance(inner, type) and issubclass(inner, enum.Enum):
    raise UserError(f"--config.{override.key}={value!r}: {nearest(str(value), [member.value for member in inner])}")
  if dataclasses.is_dataclass(inner) or typing.get_origin(inner) is dict:
    raise UserError(f"{override.said}: {at} is {_kind(inner)}, expected {_how(inner, at)}{' or None' if optional else ''}")
  raise UserError(f"{override.said}: expected {_kind(inner)}{' or None' if optional else ''}, such as {_example(inner, now)!r}")


def _literal(hint: Any, text: str) -> Any:
  """The text as Python writes a value, else true or false, else itself. Words need no quotes, also those that look like a number."""
  try:
    value = ast.literal_eval(text)
  except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
    value = {"true": True, "false": False}.get(text.lower(), text)
  return text if convert.without_none(hint)[0] is str and value is not None and not isinstance(value, str) else value


def _kind(hint: Any) -> str:
  """What a field of this type is, in words."""
  if dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict:
    return "a section"
  return "a list" if typing.get_origin(hint) is tuple else hint.__name__


def _how(hint: Any, at: str) -> str:
  """What to write for a field of this type."""
  if dataclasses.is_dataclass(hint):
    return f"--{at}.KEY=VALUE with a KEY of {', '.join(field.name for field in dataclasses.fields(hint))}"
  return f"--{at}.NAME.KEY=VALUE" if typing.get_origin(hint) is dict else f"--{at}=VALUE"


def _example(hint: Any, now: Any) -> Any:
  """A value of the right type: the one that is there, if it is."""
  if typing.get_origin(hint) is tuple:
    item = typing.get_args(hint)[0]
    return tuple(now) if now and isinstance(now, list) else (_example(item, None),)
  if dataclasses.is_dataclass(hint):
    hints = typing.get_type_hints(hint)
    return {field.name: _example(hints[field.name], None) for field in dataclasses.fields(hint) if field.default is dataclasses.MISSING}
  return now if isinstance(now, hint) else {int: 1, float: 0.5, bool: True, str: "name"}[hint]
