"""What a user caused, said in one line that names the nearest right value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 200  # characters of what a library says
SHOWN = 80  # characters of a value in an error


class UserError(ValueError):
  """What a user gave is wrong: one line with the value, what was expected and the nearest right one. Any other exception is our fault."""


class UsageError(UserError):
  """A command line that cannot be read: a flag that is unknown, missing or contradicts another, a stray word. Its exit status is 2."""


def first_line(error: BaseException) -> str:
  """What a library's error says, cut to its first line; the error's class where it says nothing."""
  return str(error).strip().partition("\n")[0][:LONGEST] or type(error).__name__


def shown(value: object) -> str:
  """A value as an error shows it: a part of what is long."""
  text = repr(value)
  return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def nearest(word: str, known: Iterable[str]) -> str:
  """`did you mean X?` for the known word closest to `word`, followed by all of them."""
  words = [str(k) for k in known]
  close = difflib.get_close_matches(str(word)[:SHOWN], words, n=1, cutoff=0.5)
  listing = "expected one of " + ", ".join(words)
  return f"did you mean {close[0]!r}? ({listing})" if close else listing
