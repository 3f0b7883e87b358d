"""Prompts that adherence is measured on: seeded sets of training and of held-out objects, or a user's file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from ivid.moving_shapes import grammar
from ivid.spec.errors import UserError, nearest
from ivid.spec.paths import read_lines

ONE, TWO = "one", "two"
HELD_OUT = "_held_out"
# Groups of prompts: objects that training draws, and objects that it never draws; one object or two.
GROUPS = (ONE, TWO, ONE + HELD_OUT, TWO + HELD_OUT)
REPEATS = 10_000  # repeated draws in a row that mean that there are hardly any other prompts


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A caption by the template, its attributes, the group in which it is reported, and whether it asks for a single image."""

  text: str
  attributes: grammar.Attributes
  group: str
  image: bool = False


def seeded_prompts(seed: int, count: int, groups: tuple[str, ...] = GROUPS, *, images: bool = False) -> list[Prompt]:
  """`count` different prompts of each group, the groups in turn: the first n of a longer list are the list of n.

  Args:
    images: captions of single images. Their attributes keep the motion that was drawn, which the caption leaves out: what is held out from
      clips is not from images, since training draws the same object with another motion.

  Raises:
    UserError: the count is below 1 or above the number of prompts, or a group is unknown.
  """
  if count < 1:
    raise UserError(f"prompts={count}: expected 1 or more")
  for group in groups:
    if group not in GROUPS:
      raise UserError(f"prompt group {group!r}: {nearest(group, GROUPS)}")
  rngs = {group: np.random.default_rng([seed, GROUPS.index(group)]) for group in groups}
  seen: set[str] = set()
  prompts = []
  write = grammar.image_caption if images else grammar.caption
  for number in range(count):
    for group, rng in rngs.items():
      for _ in range(REPEATS):
        attributes = grammar.sample_attributes(rng, group.startswith(TWO), held_out=group.endswith(HELD_OUT))
        text = write(attributes.objects, attributes.background)
        if text not in seen:
          break
      else:
        raise UserError(f"prompts={count}: there are few more than {number} different ones of group {group}: expected {number} or fewer")
      seen.add(text)
      prompts.append(Prompt(text, attributes, group, images))
  return prompts


def asked(path: str, *, seed: int, count: int, groups: Sequence[str], images: bool = False) -> list[Prompt]:
  """The prompts of a file, or if `path` is empty seeded ones (of all groups if none is given). Raises the errors of both."""
  return read_prompts(path, images=images) if path else seeded_prompts(seed, count, tuple(groups) or GROUPS, images=images)


def parse_prompt(text: str, *, image: bool = False) -> Prompt:
  """The prompt and its group. It is held out only if all of its objects are, as in `seeded_prompts`, and never if it asks for an `image`.

  Raises:
    UserError: the caption does not follow the template; the error names the word and the nearest one that would fit.
  """
  attributes = grammar.parse(text, motion=not image)
  group = ONE if len(attributes.objects) == 1 else TWO
  held_out = not image and all(map(grammar.held_out, attributes.objects))
  return Prompt(text, attributes, group + HELD_OUT if held_out else group, image)


def read_prompts(path: str | os.PathLike[str], *, images: bool = False) -> list[Prompt]:
  """Prompts of clips or of single `images`, one per line; empty lines and lines that begin with # are skipped.

  Raises:
    UserError: there is no such file, it is not UTF-8, a line (named by its number) is outside the grammar, or there is no prompt.
  """
  prompts = []
  for number, line in enumerate(read_lines(path, "prompts file"), start=1):
    text = line.strip()
    if not text or text.startswith("#"):
      continue
    try:
      prompts.append(parse_prompt(text, image=images))
    except ValueError as error:
      raise UserError(f"{path}, line {number}: {error}") from None
  if not prompts:
    raise UserError(f"{path} has no prompts: expected one a line")
  return prompts
