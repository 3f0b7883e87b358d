"""Parameters of unet.second_way_up, with which guidance distillation keeps all of the teacher's parameters frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from ivid.spec.stage import UNetSpec

PREFIX = "second_"  # before the names of its parameters
_WAY_UP = ("up", "grow", "norm_out", "conv_out")


def from_teacher(params: Mapping[str, Any], spec: UNetSpec) -> dict[str, Any]:
  """A student's initial parameters: the teacher's. If only the student has a second way up, it starts as a copy of the first."""
  if not spec.second_way_up or any(name.startswith(PREFIX) for name in params):
    return dict(params)
  return {**params, **{f"{PREFIX}{name}": params[name] for name in params if name.startswith(_WAY_UP)}}


def learning(params: Mapping[str, Any], spec: UNetSpec) -> dict[str, Any]:
  """Tree of bools like the parameters: True for those that guidance distillation changes (without a second way up, all)."""
  return {name: jax.tree.map(lambda _, name=name: _learns(name, spec), tree) for name, tree in params.items()}


def freeze_rest(params: Mapping[str, Any], spec: UNetSpec) -> dict[str, Any]:
  """The parameters, with the gradient stopped at those that guidance distillation does not change."""
  return {name: tree if _learns(name, spec) else jax.lax.stop_gradient(tree) for name, tree in params.items()}


def _learns(name: str, spec: UNetSpec) -> bool:
  return not spec.second_way_up or name.startswith(PREFIX)
