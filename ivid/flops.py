"""Arithmetic of a function, counted from its jaxpr: products of matrices and convolutions, loops times their length."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count_flops(fn: Callable[..., Any], *args: Any) -> int:
  """Floating-point operations (two a multiply-add) of one call of `fn` on abstract arguments; elementwise work is left out."""
  return _jaxpr_flops(jax.make_jaxpr(fn)(*args).jaxpr)


def count_params(params: Any) -> int:
  """Number of values in a tree of (abstract) arrays."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def count_bytes(tree: Any) -> int:
  """Bytes of a tree of (abstract) arrays on one device, its shardings counted where it has them."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    total += math.prod(shape) * leaf.dtype.itemsize
  return total


def _jaxpr_flops(jaxpr: core.Jaxpr) -> int:
  return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: Any) -> int:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contract, _), _ = params["dimension_numbers"]
    depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contract)
    return 2 * depth * math.prod(equation.outvars[0].aval.shape)
  if name == "conv_general_dilated":
    kernel = equation.invars[1].aval.shape
    numbers = params["dimension_numbers"].rhs_spec  # (output, input, spatial...)
    taps = math.prod(kernel[axis] for axis in numbers[1:])
    return 2 * taps * math.prod(equation.outvars[0].aval.shape) // params["batch_group_count"]
  if name == "scan":
    return params["length"] * _jaxpr_flops(params["jaxpr"].jaxpr)
  if (
    name == "cond"
  ):  # platform_dependent: XLA's gradients of strided convolutions are written with zeros between the values, so the least is true
    return min(_jaxpr_flops(branch.jaxpr) for branch in params["branches"])
  return sum(_jaxpr_flops(inner) for inner in _inner_jaxprs(params))


def _inner_jaxprs(params: dict[str, Any]) -> list[core.Jaxpr]:
  found = []
  for value in params.values():
    if isinstance(value, core.ClosedJaxpr):
      found.append(value.jaxpr)
    elif isinstance(value, core.Jaxpr):
      found.append(value)
  return found
