"""Config files and overrides to RunSpecs; the only place that knows ml_collections."""

from __future__ import annotations

import ast
import importlib.util
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import ml_collections

import ivid
from ivid.spec import convert, formats
from ivid.spec.errors import UsageError, UserError, nearest
from ivid.spec.run import RunSpec


def load_run(config: str | None, overrides: Sequence[str] = ()) -> RunSpec:
  """The RunSpec of `--config=<config>` with overrides such as `train.batch_size=4`.

  Raises:
    UserError: no such config, stage or key (naming the nearest), or a spec that does not hold together.
  """
  return convert.run_from_config(load_config(config, overrides))


def load_config(config: str | None, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
  """The locked ConfigDict of a config file and stage, with overrides."""
  names = ", ".join(shipped_configs())
  if not config:
    raise UsageError(f"--config is missing: expected a file and a stage such as nano:base (configs that ship: {names})")
  file, _, stage = config.partition(":")
  path = pathlib.Path(file) if file.endswith(".py") else _config_folder() / f"{file}.py"
  if not path.is_file():
    raise UserError(f"no config {file!r}: {nearest(file, shipped_configs())}, or a .py file")
  spec = importlib.util.spec_from_file_location(f"ivid_config_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  loaded = module.get_config(stage) if stage else module.get_config()
  for override in overrides:
    _override(loaded, override)
  return loaded.lock()


def config_json(config: ml_collections.ConfigDict) -> str:
  """The config as a work folder keeps it, for people to read."""
  return json.dumps(formats.stamped(json.loads(config.to_json_best_effort())), indent=1)


def _override(config: ml_collections.ConfigDict, override: str) -> None:
  """Sets KEY=VALUE; KEY has dots, and places in a sequence in brackets: train.phases[0].steps."""
  key, equals, text = override.partition("=")
  if not equals:
    raise UserError(f"--config.{key}: expected --config.{key}=VALUE")
  path = [int(part[1:-1]) if re.fullmatch(r"\[\d+\]", part) else part for part in key.replace("[", ".[").split(".")]
  _changed(config, path, _literal(text), f"--config.{key}={text}", "config")


def _changed(node: Any, path: Sequence[str | int], value: Any, said: str, at: str) -> Any:
  """`node` with the value at the end of the path: a ConfigDict itself, sequences and what lies in them as copies.

  Args:
    said: the override, for errors.
    at: the path to the node.
  """
  if not path:
    # A ConfigDict checks types too, but takes a bool for a float.
    if isinstance(value, bool) and isinstance(node, float):
      raise UserError(f"{said}: expected float, such as {node!r}")
    return value
  name, rest = path[0], path[1:]
  if isinstance(node, ml_collections.ConfigDict):
    if name not in node:
      raise UserError(f"unknown key '{at}.{name}': {formats.expected_key(str(name), list(node))}")
    new = _changed(node[name], rest, value, said, f"{at}.{name}")
    try:
      node[name] = new
    except TypeError:
      raise UserError(f"{said}: expected {type(node[name]).__name__}, such as {node[name]!r}") from None
    return node
  if isinstance(node, tuple | list) and isinstance(name, int):
    if name >= len(node):
      raise UserError(f"{said}: {at} has {len(node)}, expected [0] to [{len(node) - 1}]")
    return type(node)([*node[:name], _changed(node[name], rest, value, said, f"{at}[{name}]"), *node[name + 1 :]])
  if isinstance(node, dict):  # of a sequence: the spec knows its keys
    return node | {name: _changed(node.get(name), rest, value, said, f"{at}.{name}")}
  raise UserError(f"unknown key '{at}.{name}': {at} is {node!r}, expected no more of a path")


def _literal(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return {"true": True, "false": False}.get(text.lower(), text)


def shipped_configs() -> list[str]:
  """Names of the configs installed with the package."""
  return sorted(path.stem for path in _config_folder().glob("*.py") if path.stem != "__init__")


def _config_folder() -> pathlib.Path:
  found = importlib.util.find_spec("ivid.configs")
  if found is not None and found.submodule_search_locations:
    return pathlib.Path(next(iter(found.submodule_search_locations)))
  return pathlib.Path(ivid.__file__).parent.parent / "configs"  # a checkout that is not installed
