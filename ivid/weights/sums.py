"""Sums over the bits of arrays, which tell whether one has changed since: the same on any number of devices and hosts, and in numpy.

The sum of an array adds up, modulo 2^32, a 32-bit hash of each element's bits and its place in the whole array. Integers may be added
in any order, so the sums of shards add up to that of the whole array. The hash is one to one in the bits: one changed element always
changes the sum, and several do in all but one of 2^32 cases.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ivid.programs import Program

GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio, odd
BLOCK = 1 << 22  # words that numpy processes at a time


def named_leaves(trees: Mapping[str, Any]) -> dict[str, Any]:
  """The leaves of several trees by their names, such as ema/levels_0/kernel."""
  pairs = jax.tree_util.tree_leaves_with_path(dict(trees))
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def device_sums(trees: Mapping[str, Any]) -> dict[str, int]:
  """The sum of every array by its name, computed in one program on the devices that hold them. All processes call this."""
  leaves = named_leaves(trees)
  if not leaves:
    return {}
  shardings = (getattr(leaf, "sharding", None) for leaf in leaves.values())
  mesh = next((sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)), None)
  found = np.asarray(_program(mesh)(list(leaves.values())))
  return {name: int(value) for name, value in zip(leaves, found, strict=True)}


def host_sums(trees: Mapping[str, Any]) -> dict[str, int]:
  """As `device_sums`, for arrays that are whole in this process, without compiling anything."""
  return {name: _host_sum(np.asarray(leaf)) for name, leaf in named_leaves(trees).items()}


def first_changed(have: Mapping[str, int], want: Mapping[str, int]) -> str | None:
  """The first name whose sum differs from the stored one, or that only one of the two has; None if there is none."""
  return next((name for name in {**want, **have} if want.get(name) != have.get(name)), None)


@functools.lru_cache(maxsize=4)
def _program(mesh: Mesh | None) -> Any:
  out = None if mesh is None else NamedSharding(mesh, PartitionSpec())
  one = Program("sum", _device_sum).jit()  # traced once per shape
  return Program("sums", lambda leaves: jnp.stack([one(leaf) for leaf in leaves]), out_shardings=out).jit()


def _device_sum(array: jax.Array) -> jax.Array:
  if array.dtype == bool:
    array = array.astype(jnp.uint8)
  size = array.dtype.itemsize
  words = jax.lax.bitcast_convert_type(array, {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32)).astype(jnp.uint32)
  place, stride = jnp.zeros(words.shape, jnp.uint32), 1
  for axis in reversed(range(words.ndim)):
    place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
    stride *= words.shape[axis]
  return jnp.sum(_mixed(words, place), dtype=jnp.uint32)


def _host_sum(array: np.ndarray) -> int:
  words = np.ascontiguousarray(array).reshape(-1).view(f"u{min(array.dtype.itemsize, 4)}")
  total = 0
  for start in range(0, math.prod(words.shape), BLOCK):
    block = words[start : start + BLOCK].astype(np.uint32)
    place = (np.arange(len(block), dtype=np.uint64) + np.uint64(start)).astype(np.uint32)
    total += int(np.sum(_mixed(block, place), dtype=np.uint64))
  return total % 2**32


def _mixed(words: Any, place: Any) -> Any:
  """The finalizer of MurmurHash3 (Appleby 2011), applied to each word plus its place; uint32, in numpy or JAX."""
  kind = np.uint32
  x = words + place * kind(GOLDEN)
  x = (x ^ (x >> kind(16))) * kind(0x85EBCA6B)
  x = (x ^ (x >> kind(13))) * kind(0xC2B2AE35)
  return x ^ (x >> kind(16))
