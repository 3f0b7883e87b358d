"""The devices on which sampling runs: a mesh from a user's description, and the clips and batches that it divides."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import jax
from jax.sharding import Mesh

from ivid.parallel.mesh import AXES, make_mesh
from ivid.spec.errors import UserError, nearest
from ivid.spec.run import MeshSpec
from ivid.spec.stage import StageSpec

Meshes = str | Mapping[str, int] | MeshSpec | Mesh
CUTTING = ("frames", "height")  # axes that cut one clip
ONE = MeshSpec(data=1)


def open_mesh(wanted: Meshes | None) -> Mesh | None:
  """The mesh over the first devices of this host; None if nothing is asked for.

  Args:
    wanted: `frames=4,height=2`, or the same as a mapping, where axes that are not named have one device; a MeshSpec, whose -1 stands for
      all devices that the others leave; or a mesh of ivid.parallel.mesh.make_mesh, which is taken as it is.

  Raises:
    UserError: an axis does not exist, a size is not a size, or there are not enough devices.
  """
  if wanted is None or (isinstance(wanted, str) and not wanted):
    return None
  if isinstance(wanted, Mesh):
    if wanted.axis_names != AXES:
      raise UserError(f"mesh of axes {', '.join(map(str, wanted.axis_names))}: expected {', '.join(AXES)}, as make_mesh gives them")
    return wanted
  spec = wanted if isinstance(wanted, MeshSpec) else _read(wanted)
  devices, sizes = jax.local_devices(), dataclasses.astuple(spec)
  if min(sizes) < 1:  # one is -1, or wrong
    return make_mesh(spec, devices)
  if math.prod(sizes) > len(devices):
    raise UserError(f"mesh {mesh_text(spec)} takes {math.prod(sizes)} devices: expected at most {len(devices)}, as many as there are here")
  return make_mesh(spec, devices[: math.prod(sizes)])


def reopen_mesh(recorded: MeshSpec | None, *, said_by: str) -> Mesh | None:
  """The mesh on which a clip was made, from its metadata; None if they do not state it, as in older formats.

  Raises:
    UserError: there are not enough devices.
  """
  if recorded is None:
    return None
  have, need = jax.local_device_count(), math.prod(dataclasses.astuple(recorded))
  if need > have:
    raise UserError(
      f"{said_by} was made on {need} devices, mesh {mesh_text(recorded)}, and there {'is' if have == 1 else 'are'} {have} here: "
      "expected as many, or --mesh=data=1, which makes the clip on one, the same to rounding"
    )
  return open_mesh(recorded)


def _read(wanted: str | Mapping[str, int]) -> MeshSpec:
  if isinstance(wanted, str):
    pairs = [part.strip().partition("=")[::2] for part in wanted.split(",") if part.strip()]
  else:
    pairs = list(wanted.items())
  sizes: dict[str, int] = {}
  for axis, size in pairs:
    if axis not in AXES:
      raise UserError(f"mesh {axis}={size}: unknown axis {axis!r}: {nearest(axis, AXES)}")
    if axis in sizes:
      raise UserError(f"mesh {axis}={size}: axis {axis} has {sizes[axis]} already: expected it once")
    text = str(size)
    if isinstance(size, bool) or not text.removeprefix("-").isdecimal() or len(text) > len("1000000000"):
      raise UserError(f"mesh {axis}={text[:20]}: expected a number of devices, such as {axis}=4")
    sizes[axis] = int(text)
  return MeshSpec(**{"data": 1} | sizes)


def several(mesh: Mesh) -> Mesh | None:
  """The mesh; None if it only has the default device, which needs no mesh."""
  return None if list(mesh.devices.flat) == jax.local_devices()[:1] else mesh


def mesh_spec(mesh: Mesh | None) -> MeshSpec:
  """The sizes of the axes of a mesh; None is one device."""
  return ONE if mesh is None else MeshSpec(**mesh.shape)


def mesh_text(spec: MeshSpec) -> str:
  """The mesh in the form of `--mesh`: the axes that have several devices; empty if none has."""
  sizes = ((axis, getattr(spec, axis)) for axis in AXES)
  return ",".join(f"{axis}={size}" for axis, size in sizes if size != 1)


def cuts_clips(spec: MeshSpec) -> bool:
  """Whether the mesh spreads one clip over several devices, so that it is computed whole and not in tiles."""
  return any(getattr(spec, axis) > 1 for axis in CUTTING)


def mesh_rows(mesh: Mesh) -> int:
  """The number of parts into which the mesh cuts a batch."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def check_divides(mesh: Mesh, stages: Sequence[StageSpec], *, batches: Iterable[int] = ()) -> None:
  """Raises UserError if the mesh does not divide the frames or the height of a stage's clips, or a batch of `batches` clips."""
  for axis in CUTTING:
    parts, sizes = mesh.shape[axis], [getattr(spec.output, axis) for spec in stages]
    for spec, size in zip(stages, sizes, strict=True):
      if size % parts:
        near = max(n for n in range(1, parts) if math.gcd(*sizes) % n == 0)
        every = " for all stages that run" if len(stages) > 1 else ""
        raise UserError(f"mesh {axis}={parts} does not divide the {axis}={size} of stage {spec.name}: expected {axis}={near}{every}")
  rows = mesh_rows(mesh)
  for count in batches:
    if count % rows:
      raise UserError(f"a batch of {count} clips on a mesh of {rows} rows: expected multiples of {rows} clips and batch_size={rows}")
