"""Program: a pure function with its abstract arguments, shardings and donation. Everything that is jitted is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Program:
  """One compiled unit of work; the binaries jit it, `ivid compile` lowers the very same record.

  Attributes:
    name: shown in tables and profiles.
    fn: pure function; parameters, EMA and other large trees are arguments, never closures.
    args: one pytree of ShapeDtypeStruct per positional argument of `fn` (sharded where that matters).
    out_shardings: shardings of the results; None leaves them to the compiler.
    donate: positions of arguments whose memory the results may take.
  """

  name: str
  fn: Callable[..., Any]
  args: tuple[Any, ...] = ()
  out_shardings: Any = None
  donate: tuple[int, ...] = ()

  def jit(self) -> Callable[..., Any]:
    if self.out_shardings is None:
      return jax.jit(self.fn, donate_argnums=self.donate)
    return jax.jit(self.fn, donate_argnums=self.donate, out_shardings=self.out_shardings)

  def lower(self) -> jax.stages.Lowered:
    return self.jit().lower(*self.args)
