"""Flags that say how stages are sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from ivid.spec.options import STARTS
from ivid.spec.sampling import any_stage_samplers

if TYPE_CHECKING:
  from ivid.sample.plan import Overrides

HELP = {
  "steps": "Sampling steps: 32 for all stages, or base=64,ssr1=16; default: the cascade's.",
  "sampler": f"{any_stage_samplers()}; of distilled stages, the one they were made for; by stage as --steps.",
  "guidance": "Weight w of (1 + w) x_cond - w x_uncond; 15:1 oscillates; by stage as --steps.",
  "threshold": "none, static or dynamic; by stage as --steps.",
  "aug_snr": "Power ratio of the noise augmentation of a stage's input, such as 3 or 5; by stage as --steps.",
  "tile": "What is computed at once: 32x768x1280 (0: the whole axis) or whole; by stage as --steps; default: by memory.",
}
NAMES = tuple(HELP)
MESH = "Devices that share a batch or cut each clip: frames=4, or data=2,height=2; default: as many as divide a batch."
DEFAULT_CASCADE = "nano"


def define_options(values: flags.FlagValues, names: tuple[str, ...] = NAMES) -> None:
  """Adds the flags of these names."""
  for name in names:
    flags.DEFINE_string(name, "", (HELP | STARTS)[name], flag_values=values)


def read_options(values: flags.FlagValues, names: tuple[str, ...] = NAMES) -> Overrides:
  """The flags as ivid.sample.plan.Overrides.

  Raises:
    UserError: a value that cannot be read.
  """
  from ivid.sample.option_texts import read_option  # starts JAX
  from ivid.sample.plan import Overrides

  return Overrides(**{name: read_option(name, values[name].value) for name in names})  # pyright: ignore[reportArgumentType]  flags of text are never None
