"""The device mesh of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from ivid.spec.errors import UserError
from ivid.spec.run import MeshSpec

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


def make_mesh(spec: MeshSpec, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Mesh over `devices` (default: all), with automatic axes so that XLA propagates shardings."""
  devices = jax.devices() if devices is None else devices
  shape = mesh_shape(spec, len(devices))
  return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))
