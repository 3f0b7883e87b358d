"""The words of moving_shapes: index tables, captions and paraphrases, parsing, the held-out rule. Pure Python."""

from __future__ import annotations

import dataclasses
import string
from typing import TYPE_CHECKING

from ivid.moving_shapes import synonyms
from ivid.spec.errors import UserError, nearest

if TYPE_CHECKING:
  import numpy as np

SIZES = ("small", "large")
# Name and RGB.
COLOURS = {
  "red": (230, 30, 30),
  "orange": (245, 140, 20),
  "yellow": (240, 225, 30),
  "green": (40, 180, 60),
  "cyan": (40, 210, 220),
  "blue": (40, 80, 230),
  "purple": (140, 50, 190),
  "pink": (250, 130, 190),
}
COLOUR_NAMES = tuple(COLOURS)
LETTERS = tuple(f"letter {c}" for c in string.ascii_uppercase)
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", *LETTERS)
MOTIONS = ("moves left", "moves right", "moves up", "moves down", "stays still", "spins", "grows", "shrinks", "bounces")
BACKGROUNDS = ("black", "gray", "white", "striped", "checkered")

SMALL, LARGE = range(2)
FIRST_LETTER = SHAPES.index("letter A")
SPINS = MOTIONS.index("spins")
STAYS_STILL = MOTIONS.index("stays still")
# Shapes that look the same (or nearly) at every angle.
ROUND = frozenset(SHAPES.index(name) for name in ("circle", "ring", "letter O"))
# The letters outnumber the other shapes 26 to 6; they are drawn this often, so that every plain shape stays common.
LETTER_SHARE = 0.35
HELD_OUT_MODULUS = 8
MAX_CHARACTERS = 127  # 128 tokens of bytes, the last one an end mark; the longest template has fewer
PARAPHRASE_TRIES = 8


@dataclasses.dataclass(frozen=True)
class Object:
  """Indices into SIZES, COLOUR_NAMES, SHAPES and MOTIONS."""

  size: int
  colour: int
  shape: int
  motion: int

  @property
  def valid(self) -> bool:
    """Letters are always large, and round shapes never spin."""
    return not (self.shape >= FIRST_LETTER and self.size != LARGE) and not (self.motion == SPINS and self.shape in ROUND)

  @property
  def words(self) -> tuple[str, str, str, str]:
    return SIZES[self.size], COLOUR_NAMES[self.colour], SHAPES[self.shape], MOTIONS[self.motion]


@dataclasses.dataclass(frozen=True)
class Attributes:
  """What a caption says: one or two objects (the second in front) and an index into BACKGROUNDS."""

  objects: tuple[Object, ...]
  background: int


def held_out(item: Object) -> bool:
  """Whether training never sees this colour, shape and motion together."""
  return (item.colour + 2 * item.shape + 3 * item.motion) % HELD_OUT_MODULUS == 0


def caption(objects: tuple[Object, ...], background: int) -> str:
  """The template that evaluation uses."""
  parts = [f"a {' '.join(item.words)}" for item in objects]
  return f"{' and '.join(parts)} on a {BACKGROUNDS[background]} background"


def image_caption(objects: tuple[Object, ...], background: int) -> str:
  """The template of a single moment: no motion."""
  parts = [f"a {' '.join(item.words[:3])}" for item in objects]
  return f"{' and '.join(parts)} on a {BACKGROUNDS[background]} background"


def paraphrase(objects: tuple[Object, ...], background: int, rng: np.random.Generator, *, motion: bool = True) -> str:
  """A caption in other words and another order that still names every attribute; without `motion`, of a single moment.

  It has at most MAX_CHARACTERS, so that an encoder that reads bytes sees all of it.
  """
  words = [item.words if motion else item.words[:3] for item in objects]
  for _ in range(PARAPHRASE_TRIES):
    text = synonyms.paraphrase(words, BACKGROUNDS[background], rng)
    if len(text) <= MAX_CHARACTERS:
      return text
  return (caption if motion else image_caption)(objects, background)


def sample_attributes(rng: np.random.Generator, two_objects: bool, held_out: bool = False) -> Attributes:
  """Attributes of a random scene. `held_out`: every object is one that training never sees; otherwise none is."""
  objects = [_sample_object(rng, held_out)]
  while two_objects and len(objects) < 2:
    item = _sample_object(rng, held_out)
    if item.colour != objects[0].colour and item.shape != objects[0].shape:
      objects.append(item)
  return Attributes(tuple(objects), int(rng.integers(len(BACKGROUNDS))))


def _sample_object(rng: np.random.Generator, wanted: bool) -> Object:
  while True:
    letter = rng.random() < LETTER_SHARE
    shape = int(rng.integers(FIRST_LETTER, len(SHAPES)) if letter else rng.integers(FIRST_LETTER))
    size = LARGE if letter else int(rng.integers(len(SIZES)))
    item = Object(size, int(rng.integers(len(COLOURS))), shape, int(rng.integers(len(MOTIONS))))
    if item.valid and held_out(item) == wanted:
      return item


def parse(text: str, *, motion: bool = True) -> Attributes:
  """The attributes of a caption written by `caption`; without `motion`, by `image_caption`: its objects stay still, as far as it goes.

  Raises:
    UserError: the first word that does not fit, and the nearest one that would; or a combination the world does not have.
  """
  words = text.split()
  objects, at = [], 0
  while True:
    item, at = _parse_object(words, at, motion)
    objects.append(item)
    choice, at = _take(words, at, ("on", "and") if len(objects) == 1 else ("on",))
    if choice == 0:
      break
  _, at = _take(words, at, ("a",))
  background, at = _take(words, at, BACKGROUNDS)
  _, at = _take(words, at, ("background",))
  if at != len(words):
    raise UserError(f"caption {text!r}: expected nothing after 'background', found {words[at]!r}")
  return _checked(text, Attributes(tuple(objects), background))


def _parse_object(words: list[str], at: int, motion: bool) -> tuple[Object, int]:
  _, at = _take(words, at, ("a",))
  size, at = _take(words, at, SIZES)
  colour, at = _take(words, at, COLOUR_NAMES)
  shape, at = _take(words, at, SHAPES)
  moves, at = _take(words, at, MOTIONS) if motion else (STAYS_STILL, at)
  return Object(size, colour, shape, moves), at


def _take(words: list[str], at: int, names: tuple[str, ...]) -> tuple[int, int]:
  """The index of the name (of one or two words) at position `at`, and the position after it."""
  for index, name in enumerate(names):
    parts = name.split()
    if words[at : at + len(parts)] == parts:
      return index, at + len(parts)
  if at >= len(words):
    raise UserError(f"caption {' '.join(words)!r} ends too early: expected one of {', '.join(names)}")
  firsts = {name.split()[0] for name in names if " " in name}
  found = " ".join(words[at : at + (2 if words[at] in firsts else 1)])
  same = [name for name in names if name.lower() == found.lower()]
  raise UserError(f"caption word {at + 1}, {found!r}: {nearest(same[0] if same else found, names)}")


def _checked(text: str, attributes: Attributes) -> Attributes:
  for item in attributes.objects:
    if item.shape >= FIRST_LETTER and item.size != LARGE:
      raise UserError(f"caption {text!r}: a small {SHAPES[item.shape]}; letters are always large")
    if not item.valid:
      raise UserError(f"caption {text!r}: a {SHAPES[item.shape]} cannot spin; its turning would not show")
  if len(attributes.objects) == 2:
    first, second = attributes.objects
    if first.colour == second.colour or first.shape == second.shape:
      raise UserError(f"caption {text!r}: two objects need different colours and different shapes")
  return attributes
