"""ivid: Imagen Video (arXiv 2210.02303) in JAX and Flax.

  ivid.load("nano").sample("a large red circle moves left on a black background")[0].save("circle.mp4")
  ivid.train(ivid.load_run("nano:base"), "runs/base")

Names are resolved when they are asked for: importing ivid imports no JAX.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from ivid.config import load_run as load_run
  from ivid.pipeline import Cascade as Cascade
  from ivid.pipeline import Clip as Clip
  from ivid.pipeline import load as load
  from ivid.runs.training import train as train
  from ivid.spec.cascade import CascadeSpec as CascadeSpec
  from ivid.spec.errors import UserError as UserError
  from ivid.spec.run import RunSpec as RunSpec
  from ivid.spec.stage import StageSpec as StageSpec
  from ivid.stage import Stage as Stage

__version__ = "0.2.0"

# Where the names of the front door are.
_HOMES = {
  "Cascade": "ivid.pipeline",
  "CascadeSpec": "ivid.spec.cascade",
  "Clip": "ivid.pipeline",
  "RunSpec": "ivid.spec.run",
  "Stage": "ivid.stage",
  "StageSpec": "ivid.spec.stage",
  "UserError": "ivid.spec.errors",
  "load": "ivid.pipeline",
  "load_run": "ivid.config",
  "train": "ivid.runs.training",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f"module 'ivid' has no attribute {name!r}")
  return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_HOMES})


class _FrontDoor(types.ModuleType):
  """This module. Its `train` is the function whatever has been imported: Python would put the package ivid.train in that place."""

  def __setattr__(self, name: str, value: Any) -> None:
    if not (name in _HOMES and isinstance(value, types.ModuleType)):
      super().__setattr__(name, value)


sys.modules[__name__].__class__ = _FrontDoor
