"""Arithmetic of a function, counted from its jaxpr: products of matrices and convolutions, loops times their length."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

# Dense bfloat16 FLOP/s of one chip, from the vendors' data sheets.
PEAKS = {
  "v4": 275e12,
  "v5e": 197e12,
  "v5p": 459e12,
  "v6e": 918e12,
  "A100": 312e12,
  "H100 PCIe": 756e12,
  "H100": 989e12,
  "H200": 989e12,
  "B200": 2250e12,
}
# What JAX calls TPUs; a GPU's name has that of the table in it.
TPU_KINDS = {
  "TPU v4": "v4",
  "TPU v5 lite": "v5e",
  "TPU v5e": "v5e",
  "TPU v5": "v5p",
  "TPU v5p": "v5p",
  "TPU v6 lite": "v6e",
  "TPU v6e": "v6e",
}


def peak_flops(kind: str) -> float | None:
  """bfloat16 FLOP/s of a device of that kind (jax.Device.device_kind); None where it is not known."""
  if kind in TPU_KINDS:
    return PEAKS[TPU_KINDS[kind]]
  return next((peak for name, peak in PEAKS.items() if name[0].isupper() and name in kind), None)


def count_flops(fn: Callable[..., Any], *args: Any) -> int:
  """Floating-point operations (two per multiply-add) of one call of `fn` on abstract arguments; elementwise work is left out."""
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
