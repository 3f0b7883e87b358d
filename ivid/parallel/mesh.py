"""The device mesh of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from ivid.spec.errors import UserError
from ivid.spec.run import MeshSpec, RunMeshSpec

AXES = tuple(field.name for field in dataclasses.fields(MeshSpec))


def mesh_shape(spec: MeshSpec, num_devices: int) -> tuple[int, ...]:
  """Sizes of the mesh's axes over all devices, -1 resolved.

  Raises:
    UserError: the axes do not multiply to the number of devices.
  """
  sizes = [getattr(spec, axis) for axis in AXES]
  # The sampling axes are named only where a run uses them.
  text = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True) if size != 1 or axis in AXES[:3])
  if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
    raise UserError(f"mesh {text}: expected positive sizes, at most one of them -1 (the devices that the others leave)")
  known = math.prod(size for size in sizes if size != -1)
  if num_devices % known or (-1 not in sizes and known != num_devices):
    near = max(d for d in range(1, min(known, num_devices) + 1) if num_devices % d == 0)
    raise UserError(
      f"mesh {text} does not divide {num_devices} device(s): expected a product of {num_devices}, the nearest divisor is {near}"
    )
  return tuple(num_devices // known if size == -1 else size for size in sizes)


def make_mesh(spec: MeshSpec, devices: Sequence[jax.Device] | None = None) -> Mesh:  # pyright: ignore[reportInvalidTypeForm]  jax assigns the class to the name
  """Mesh over `devices` (default: all), with automatic axes so that XLA propagates shardings.

  Neighbours in the mesh are neighbours in the slice's torus, and slices follow each other along data (RunMeshSpec.slices).

  Raises:
    UserError: axes that do not divide the devices or the slices.
  """
  places = place_devices(spec, jax.devices() if devices is None else devices)
  return Mesh(places, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def place_devices(spec: MeshSpec, devices: Sequence[jax.Device]) -> np.ndarray:  # pyright: ignore[reportInvalidTypeForm]  jax assigns the class to the name
  """Devices [data, fsdp, tensor, frames, height]; CPUs and GPUs in their own order. Errors as of `make_mesh`."""
  shape = mesh_shape(spec, len(devices))
  asked = spec.slices if isinstance(spec, RunMeshSpec) else 0
  have = len({getattr(device, "slice_index", 0) for device in devices})
  if asked and asked != have and (have > 1 or devices[0].platform == "tpu"):
    raise UserError(f"mesh.slices={asked}: the {len(devices)} devices are of {have} slice{'s' * (have > 1)}: expected {have}, or 0")
  slices = asked or have
  if asked and (shape[0] % asked or len(devices) % asked):
    near = max(n for n in range(1, asked + 1) if shape[0] % n == 0)
    raise UserError(f"mesh.slices={asked} does not divide data={shape[0]}, which lies over the slices: the nearest that does is {near}")
  if shape[0] % slices:  # then fsdp or tensor crosses slices, which works but is slow
    return np.asarray(devices).reshape(shape)
  within = (shape[0] // slices, *shape[1:])
  try:
    if have > 1:
      across = (slices,) + (1,) * (len(shape) - 1)
      return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)
    parts = np.split(np.asarray(devices), slices)  # if devices do not name their slices, equal parts take their place
    return np.concatenate([mesh_utils.create_device_mesh(within, list(part), allow_split_physical_axes=True) for part in parts])
  except (AssertionError, NotImplementedError, ValueError):  # only some chips of a slice, which form no torus
    return np.asarray(devices).reshape(shape)
