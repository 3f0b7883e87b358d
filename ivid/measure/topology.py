"""TPU slices that need not exist: what a chip of each family can do, and devices for the compiler."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from typing import Any

import jax

from ivid.flops import PEAKS
from ivid.spec.errors import UserError, nearest

# The flags that launch/env.sh gives the compiler on a slice; the reasons are given there.
TPU_FLAGS = (
  "--xla_enable_async_all_gather=true",
  "--xla_tpu_overlap_compute_collective_tc=true",
  "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
  "--xla_tpu_data_parallel_opt_different_sized_ops=true",
)


@dataclasses.dataclass(frozen=True)
class Family:
  """One generation of chips.

  Attributes:
    hbm: bytes per chip.
    peak: bfloat16 FLOP/s per chip.
    clock: cycles per second.
    link: bytes per second over one link between chips, one way; a chip has a link in each direction along each of its `axes`.
    slices: available topologies, smallest first.
    accelerator: libtpu's name for a host of this family.
    megacore: whether one device per chip has to be requested.
  """

  hbm: float
  peak: float
  clock: float
  link: float
  axes: int
  slices: tuple[str, ...]
  accelerator: str
  megacore: bool = False

  @property
  def ring(self) -> float:
    """Bytes per second that a chip passes on in a ring along one axis, both directions together."""
    return 2 * self.link


_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
FAMILIES = {
  "v4": Family(32e9, PEAKS["v4"], 1.05e9, 4.5e10, 3, _CUBES, "v4-8", megacore=True),
  "v5e": Family(16e9, PEAKS["v5e"], 1.5e9, 4.5e10, 2, _SQUARES, "v5litepod-4"),
  "v5p": Family(95e9, PEAKS["v5p"], 1.75e9, 9e10, 3, _CUBES, "v5p-8"),
  "v6e": Family(32e9, PEAKS["v6e"], 1.75e9, 9e10, 2, _SQUARES, "v6e-4"),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A topology such as v5p:4x4x8."""

  name: str
  family: Family
  chips: int

  def smallest(self, chips: float) -> str:
    """Name of the smallest slice of this family with at least so many chips; empty if there is none."""
    kind = self.name.partition(":")[0]
    return next((f"{kind}:{shape}" for shape in self.family.slices if _chips(shape) >= chips), "")


def parse_slice(name: str) -> Slice:
  """The slice of that name.

  Raises:
    UserError: the family is unknown, or does not have this shape; the error names the nearest.
  """
  kind, _, shape = name.partition(":")
  if kind not in FAMILIES:
    raise UserError(f"--topology={name}: unknown family {kind!r}: {nearest(kind, FAMILIES)}; expected such as v5p:4x4x8")
  family = FAMILIES[kind]
  if shape not in family.slices:
    try:
      wanted = _chips(shape)
    except ValueError:
      wanted = 0
    near = min(family.slices, key=lambda s: abs(math.log(_chips(s) / max(wanted, 1))))
    raise UserError(f"--topology={name}: expected {kind}: and one of {', '.join(family.slices)}; the nearest is {kind}:{near}")
  return Slice(name, family, _chips(shape))


def set_environment(found: Slice) -> None:
  """Sets what libtpu reads when it is loaded; call this before JAX starts a backend. Keeps libtpu's log off the terminal.

  The compiler gets the flags of a run on a slice; flags in the user's LIBTPU_INIT_ARGS follow them and win.
  """
  os.environ.update(
    LIBTPU_INIT_ARGS=" ".join((*TPU_FLAGS, os.environ.get("LIBTPU_INIT_ARGS", ""))).strip(),
    JAX_PLATFORMS="cpu",
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE=found.family.accelerator,
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_MIN_LOG_LEVEL="3",
    TPU_STDERR_LOG_LEVEL="3",
    TF_CPP_MIN_LOG_LEVEL="3",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
  )
  jax.config.update("jax_enable_compilation_cache", False)  # without a chip, JAX can write a program there but cannot read it back


def slice_devices(found: Slice, slices: int = 1) -> list[Any]:
  """Devices of so many slices of this kind, joined by a network, for compiling only.

  Raises:
    UserError: libtpu is not installed.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise UserError("the TPU compiler is not installed: expected `pip install 'ivid[tpu]'` (libtpu)")
  from jax.experimental import topologies

  options = {"chip_config_name": "megacore"} if found.family.megacore else {}
  devices = topologies.get_topology_desc(platform="tpu", topology_name=found.name, num_slices=slices, **options).devices
  assert len(devices) == found.chips * slices, (found.name, slices, len(devices))
  return list(devices)


def _chips(shape: str) -> int:
  return math.prod(int(side) for side in shape.split("x"))
