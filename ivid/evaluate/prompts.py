"""Prompts that adherence is measured on: seeded sets of training and of held-out objects, or a user's file."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import numpy as np

from ivid.data import grammar
from ivid.spec.errors import nearest

ONE, TWO = "one", "two"
HELD_OUT = "_held_out"
# Objects that training draws, and objects that it never does; one and two objects always apart.
GROUPS = (ONE, TWO, ONE + HELD_OUT, TWO + HELD_OUT)


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A caption by the template, what it says, and the group that it is reported in."""

  text: str
  attributes: grammar.Attributes
  group: str


def seeded_prompts(seed: int, count: int, groups: tuple[str, ...] = GROUPS) -> list[Prompt]:
  """`count` different prompts of each group, the groups in turn: the first n of a longer list are the list of n.

  Raises:
    ValueError: count below 1, or an unknown group.
  """
  if count < 1:
    raise ValueError(f"prompts={count}: expected 1 or more")
  for group in groups:
    if group not in GROUPS:
      raise ValueError(f"prompt group {group!r}: {nearest(group, GROUPS)}")
  rngs = {group: np.random.default_rng([seed, GROUPS.index(group)]) for group in groups}
  seen: set[str] = set()
  prompts = []
  for _ in range(count):
    for group, rng in rngs.items():
      while True:
        attributes = grammar.sample_attributes(rng, group.startswith(TWO), held_out=group.endswith(HELD_OUT))
        text = grammar.caption(attributes.objects, attributes.background)
        if text not in seen:
          break
      seen.add(text)
      prompts.append(Prompt(text, attributes, group))
  return prompts


def parse_prompt(text: str) -> Prompt:
  """The prompt and its group: held out only if all of its objects are, as `seeded_prompts` draws them.

  Raises:
    ValueError: the caption is none of the template's; names the word and the nearest one that would fit.
  """
  attributes = grammar.parse(text)
  group = ONE if len(attributes.objects) == 1 else TWO
  return Prompt(text, attributes, group + HELD_OUT if all(map(grammar.held_out, attributes.objects)) else group)


def read_prompts(path: str | os.PathLike) -> list[Prompt]:
  """One prompt a line; empty lines and lines that begin with # do not count.

  Raises:
    ValueError: a line outside the grammar, by its number; or no prompt at all.
  """
  prompts = []
  for number, line in enumerate(pathlib.Path(path).read_text(encoding="utf-8").splitlines(), start=1):
    text = line.strip()
    if not text or text.startswith("#"):
      continue
    try:
      prompts.append(parse_prompt(text))
    except ValueError as error:
      raise ValueError(f"{path}, line {number}: {error}") from None
  if not prompts:
    raise ValueError(f"{path} has no prompts: expected one a line")
  return prompts
