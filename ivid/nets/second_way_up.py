"""Parameters of unet.second_way_up: guidance distillation with everything that the teacher has frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from ivid.spec.stage import UNetSpec

PREFIX = "second_"  # before the names of its parameters
_WAY_UP = ("up", "grow", "norm_out", "conv_out")


def from_teacher(params: Mapping[str, Any], spec: UNetSpec) -> dict[str, Any]:
  """What a student begins with: the teacher's parameters, and where only the student has a second way up, one that is like the first."""
  if not spec.second_way_up or any(name.startswith(PREFIX) for name in params):
    return dict(params)
  return {**params, **{f"{PREFIX}{name}": params[name] for name in params if name.startswith(_WAY_UP)}}


def learning(params: Mapping[str, Any], spec: UNetSpec) -> dict[str, Any]:
  """Tree of bools like the parameters: those that guidance distillation changes, which are the second way up or, without one, all."""
  return {name: jax.tree.map(lambda _, name=name: _learns(name, spec), tree) for name, tree in params.items()}


def freeze_rest(params: Mapping[str, Any], spec: UNetSpec) -> dict[str, Any]:
  """The parameters, without a gradient to those that guidance distillation leaves as they are."""
  return {name: tree if _learns(name, spec) else jax.lax.stop_gradient(tree) for name, tree in params.items()}


def _learns(name: str, spec: UNetSpec) -> bool:
  return not spec.second_way_up or name.startswith(PREFIX)
