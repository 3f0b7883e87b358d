"""Placing parameters on one device, or as shards on several."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ivid.weights.tensors import Leaf


@dataclasses.dataclass(frozen=True)
class Placement:
  """How the arrays of an encoder are spread over several devices.

  Attributes:
    params: shardings in the structure of the parameters.
    rows: sharding of [N, L] ids, by captions.
  """

  params: Any
  rows: jax.sharding.Sharding


def place(param: Any, sharding: jax.sharding.Sharding | None, kinds: Sequence[np.dtype]) -> jax.Array:
  """A parameter on the devices, cast to each of `kinds` in turn. Of a Leaf, each process only reads the parts that its devices hold."""

  def cast(array: np.ndarray) -> np.ndarray:
    for kind in kinds:
      array = array.astype(kind, copy=False)
    return array

  if sharding is None:
    return jax.device_put(cast(np.asarray(param)))
  if not isinstance(param, Leaf):
    return jax.device_put(cast(np.asarray(param)), sharding)
  parts: dict[tuple[tuple[int, int], ...], np.ndarray] = {}  # devices that hold the same part share one read

  def read(index: tuple[slice, ...]) -> np.ndarray:
    bounds = tuple(part.indices(n)[:2] for part, n in zip(index, param.shape, strict=True))
    if bounds not in parts:
      parts[bounds] = cast(param.read(tuple(slice(*bound) for bound in bounds)))
    return parts[bounds]

  return jax.make_array_from_callback(param.shape, sharding, read)  # pyright: ignore[reportArgumentType]  JAX always gives an index
