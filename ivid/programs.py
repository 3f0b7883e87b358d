"""Program: a pure function with its abstract arguments, shardings and donation. Everything that is jitted is one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True)
class Program:
  """One compiled unit of work; the binaries jit it, `ivid compile` lowers the very same record.

  Attributes:
    name: shown in tables and profiles.
    fn: pure function; parameters, EMA and other large trees are arguments, never closures.
    args: one pytree of ShapeDtypeStruct per positional argument of `fn` (sharded where that matters).
    out_shardings: shardings of the results; None leaves them to the compiler.
    donate: positions of arguments whose memory the results may take.
    mesh: of the devices that it is compiled for, if more than the first.
  """

  name: str
  fn: Callable[..., Any]
  args: tuple[Any, ...] = ()
  out_shardings: Any = None
  donate: tuple[int, ...] = ()
  mesh: Mesh | None = None

  def jit(self) -> Callable[..., Any]:
    """The function to call; with a mesh inside `jax.set_mesh(program.mesh)`."""
    if self.out_shardings is None:
      return jax.jit(self.fn, donate_argnums=self.donate)
    return jax.jit(self.fn, donate_argnums=self.donate, out_shardings=self.out_shardings)

  def lower(self) -> jax.stages.Lowered:
    with contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh):
      return self.jit().lower(*self.args)
