"""Errors caused by a user, each described in one line that names the nearest right value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 200  # characters of what a library says
SHOWN = 80  # characters of a value in an error


class UserError(ValueError):
  """Wrong input, described in one line with the value, what was expected and the nearest right value. Other exceptions are our fault."""


class UsageError(UserError):
  """An unreadable command line: a flag that is unknown, missing or contradicts another, or a stray word. The exit status is 2."""


def first_line(error: BaseException) -> str:
  """The first line of what a library's error says, shortened; the name of its class if it says nothing."""
  return str(error).strip().partition("\n")[0][:LONGEST] or type(error).__name__


def shown(value: object) -> str:
  """A value as an error shows it; long values are shortened."""
  text = repr(value)
  return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def nearest(word: str, known: Iterable[str]) -> str:
  """`did you mean X?` for the known word closest to `word`, followed by all of them."""
  words = [str(k) for k in known]
  close = difflib.get_close_matches(str(word)[:SHOWN], words, n=1, cutoff=0.5)
  listing = "expected one of " + ", ".join(words)
  return f"did you mean {close[0]!r}? ({listing})" if close else listing
