"""Flags that several commands share, and how a command line is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from ivid.spec.errors import UsageError
from ivid.spec.hosts import Hosts, Shares
from ivid.spec.options import check_numbers


@dataclasses.dataclass(frozen=True)
class CommandLine:
  """A command line: its flags, its overrides as `KEY=VALUE`, and its words without dashes."""

  flags: flags.FlagValues
  overrides: list[str]
  words: list[str]


def parse_flags(
  argv: Sequence[str], define: Callable[[flags.FlagValues], None], *, overrides: bool = False, words: bool = False
) -> CommandLine:
  """Flags of one command, in a FlagValues of its own so that importing a command defines nothing.

  Args:
    argv: program name first.
    define: adds the command's flags.
    overrides: whether the command takes `--config.KEY=VALUE`.
    words: whether it takes arguments without dashes.

  Raises:
    UsageError: an unknown flag, naming the nearest; a bad value; or a stray word.
  """
  prefix = "--config."
  changed = [arg.removeprefix(prefix) for arg in argv if arg.startswith(prefix)]
  if changed and not overrides:
    raise UsageError(f"{prefix}{changed[0]}: this command takes no overrides of a config")
  values = flags.FlagValues()
  define(values)
  try:
    rest = values([arg for arg in argv if not arg.startswith(prefix)])[1:]
  except flags.Error as error:
    raise UsageError(str(error).partition("\n")[0] + (_as_override(argv) if overrides else "")) from None
  check_numbers({name: values[name].value for name in values})
  if rest and not words:
    raise UsageError(f"unexpected argument {rest[0]!r}: expected flags alone{_with_dashes(rest[0], values)}")
  return CommandLine(values, changed, rest)


def _with_dashes(word: str, values: flags.FlagValues) -> str:
  """How to write a word that looks like a flag whose dashes were forgotten."""
  name = word.partition("=")[0]
  return f", such as --{word}" if "=" in word and (name in values or name.startswith("config.")) else ""


def _as_override(argv: Sequence[str]) -> str:
  """How to write the first flag that looks like an override without its --config."""
  dotted = next((arg for arg in argv if arg.startswith("--") and "." in arg.partition("=")[0]), "")
  return f" (an override of the config: --config.{dotted[2:]})" if dotted and not dotted.startswith("--config.") else ""


def define_config(values: flags.FlagValues) -> None:
  """Adds --config=FILE:STAGE (or NAME:STAGE for a config that ships)."""
  flags.DEFINE_string(
    "config", None, "Config and stage, such as configs/nano.py:base or nano:base; --config.KEY=VALUE overrides.", flag_values=values
  )


def define_fields(values: flags.FlagValues, spec: type, *, prefix: str = "") -> None:
  """Adds a flag for each field of a dataclass of texts and numbers; its metadata has the words, after `prefix`."""
  define = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}
  for field in dataclasses.fields(spec):
    define[type(field.default)](field.name, field.default, f"{prefix}{field.metadata['help']}.", flag_values=values)


def fields_of(values: flags.FlagValues, spec: type) -> Any:
  """The dataclass that flags of `define_fields` describe."""
  return spec(**{field.name: values[field.name].value for field in dataclasses.fields(spec)})


def define_hosts(values: flags.FlagValues) -> None:
  """Adds --multihost and what is expected of it."""
  define_fields(values, Hosts)


def join_hosts(values: flags.FlagValues) -> None:
  """Joins the processes of the run as the flags say; before anything that touches a device.

  Raises:
    UserError: flags that make no sense, or processes or devices other than expected.
  """
  from ivid.parallel.distributed import join

  join(fields_of(values, Hosts))


def define_shares(values: flags.FlagValues) -> None:
  """Adds --multihost, what is expected of it, and --process, of a command whose processes make a share each."""
  define_fields(values, Shares)


def read_share(values: flags.FlagValues) -> tuple[int, int] | None:
  """Which of how many processes this is, as the flags say; errors as of `join_hosts`."""
  from ivid.parallel.shares import find_share

  return find_share(fields_of(values, Shares))
