"""Logical axis names to shardings."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
from flax import linen as nn
from flax.core import meta
from jax.sharding import Mesh, NamedSharding, PartitionSpec

if TYPE_CHECKING:  # sampling needs no optimizer and starts faster without it
  import optax

# Input channels carry fsdp (facts of scale: never the scanned axis), output channels carry tensor.
RULES: dict[str, str | tuple[str, ...] | None] = {
  "batch": ("data", "fsdp"),
  "embed_in": "fsdp",
  "embed_out": "tensor",
  "heads": "tensor",
  "mlp": "tensor",
  # For the text encoder: its width plays the role of input channels, also in the rows of the embedding.
  "embed": "fsdp",
  "joined_kv": "tensor",
  "vocab": "tensor",
}


# Activations [B, T, H, W, C] at the edges of blocks.
ACTIVATION_RULES = (("batch", ("data", "fsdp")), ("frames", "frames"), ("height", "height"))


def pinned(fn: Callable[..., Any]) -> Callable[..., Any]:
  """`fn` with its activations constrained by ACTIVATION_RULES if it is traced with a mesh set."""

  @functools.wraps(fn)
  def call(*args: Any) -> Any:
    with nn.logical_axis_rules(ACTIVATION_RULES):
      return fn(*args)

  return call


def clip_sharding(mesh: Mesh, shape: tuple[int, ...] = ()) -> NamedSharding:
  """Clips [B, T, H, W, C]: rows over data and fsdp, frames and rows of pixels over their own axes.

  `shape`: of a clip. If the axes do not divide its frames and height, it is only cut by rows of the batch.
  """
  T, H = shape[1:3] or (0, 0)
  whole = T % mesh.shape["frames"] or H % mesh.shape["height"]
  return batch_sharding(mesh) if whole else NamedSharding(mesh, PartitionSpec(RULES["batch"], "frames", "height"))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows of a batch over the data and fsdp axes."""
  return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def process_rows(mesh: Mesh, batch_size: int) -> list[int]:
  """Rows of a batch that lie on this process's devices, in rising order; processes that share rows all read them.

  The sharding decides this: a pod numbers its devices by their position in the torus, so the rows of a host need not be adjacent.
  """
  rows = set()
  for (part,) in batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values():  # pyright: ignore[reportGeneralTypeIssues]  devices of this process always have an index
    rows.update(range(*part.indices(batch_size)))
  return sorted(rows)


def param_shardings(mesh: Mesh, boxed: Any) -> Any:
  """Sharding of each parameter by its logical axis names; an axis whose size does not divide stays whole.

  Args:
    boxed: abstract parameters with names, as Stage.abstract_params gives them.

  Returns: NamedShardings in the structure of the unboxed parameters.
  """

  def one(leaf: Any) -> NamedSharding:
    names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else ()
    shape = leaf.value.shape if isinstance(leaf, meta.Partitioned) else leaf.shape
    axes = [_mesh_axes(mesh, name, size) for name, size in zip(names, shape, strict=False)]
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree.map(one, boxed, is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata))


def optimizer_shardings(mesh: Mesh, optimizer: optax.GradientTransformation, params: Any, shardings: Any) -> Any:
  """Sharding of the optimizer's state: moments like their parameter, everything of another shape replicated.

  Args:
    params: abstract unboxed parameters.
    shardings: their shardings.
  """
  flat, _ = jax.tree_util.tree_flatten_with_path(params)
  by_path = {path: (leaf.shape, s) for (path, leaf), s in zip(flat, jax.tree.leaves(shardings), strict=True)}
  whole = replicated(mesh)

  def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    # Optimizers hold trees like that of the parameters inside their own, so the end of a path is that of a parameter.
    ends = (by_path[path[i:]] for i in range(len(path)) if path[i:] in by_path)
    shape, sharding = next(ends, ((), whole))
    return sharding if leaf.shape == shape else whole

  return jax.tree_util.tree_map_with_path(one, jax.eval_shape(optimizer.init, params))


def with_shardings(abstract: Any, shardings: Any) -> Any:
  """ShapeDtypeStructs that carry their sharding."""
  return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)


def _mesh_axes(mesh: Mesh, name: str | None, size: int) -> str | tuple[str, ...] | None:
  rule = RULES.get(name) if name else None
  if rule is None:
    return None
  axes = (rule,) if isinstance(rule, str) else rule
  return rule if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None
