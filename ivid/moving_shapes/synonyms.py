"""Other words and other orders for moving_shapes captions. No word stands for two attributes. Pure Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  import numpy as np

SIZE_WORDS = {
  "small": ("small", "little", "tiny", "mini"),
  "large": ("large", "big", "huge", "giant"),
}
COLOUR_WORDS = {
  "red": ("red", "crimson", "scarlet", "bright red"),
  "orange": ("orange", "tangerine", "bright orange"),
  "yellow": ("yellow", "lemon yellow", "canary yellow", "bright yellow"),
  "green": ("green", "emerald", "grass green"),
  "cyan": ("cyan", "turquoise", "aqua"),
  "blue": ("blue", "royal blue", "sapphire blue"),
  "purple": ("purple", "violet", "deep purple"),
  "pink": ("pink", "rose pink", "light pink"),
}
SHAPE_WORDS = {
  "circle": ("circle", "disc", "disk", "ball", "round shape"),
  "square": ("square", "box", "square block"),
  "triangle": ("triangle", "three-sided shape", "triangular shape"),
  "star": ("star", "five-pointed star", "star shape"),
  "ring": ("ring", "hoop", "donut"),
  "cross": ("cross", "plus sign", "plus"),
}
LETTER_WORDS = ("letter {}", "capital {}", "capital letter {}", "uppercase {}", "block letter {}")
# Each motion as (verb phrase, the same after a noun: "a disc drifting left").
MOTION_WORDS = {
  "moves left": (("moves left", "moving left"), ("drifts to the left", "drifting to the left"), ("slides left", "sliding left"),
                 ("travels leftwards", "travelling leftwards"), ("is moving to the left", "going left")),
  "moves right": (("moves right", "moving right"), ("drifts to the right", "drifting to the right"), ("slides right", "sliding right"),
                  ("travels rightwards", "travelling rightwards"), ("is moving to the right", "going right")),
  "moves up": (("moves up", "moving up"), ("rises", "rising"), ("drifts upwards", "drifting upwards"),
               ("is moving up", "going up"), ("floats to the top", "floating to the top")),
  "moves down": (("moves down", "moving down"), ("sinks", "sinking"), ("drifts downwards", "drifting downwards"),
                 ("is moving down", "going down"), ("descends", "descending")),
  "stays still": (("stays still", "staying still"), ("does not move", "not moving"), ("stands still", "standing still"),
                  ("rests", "at rest"), ("remains in place", "remaining in place")),
  "spins": (("spins", "spinning"), ("is spinning", "spinning in place"), ("rotates", "rotating"), ("turns around", "turning around"),
            ("twirls", "twirling")),
  "grows": (("grows", "growing"), ("gets bigger", "getting bigger"), ("is growing", "becoming larger"), ("expands", "expanding"),
            ("swells", "swelling")),
  "shrinks": (("shrinks", "shrinking"), ("gets smaller", "getting smaller"), ("is shrinking", "becoming smaller"),
              ("contracts", "contracting"), ("dwindles", "dwindling")),
  "bounces": (("bounces", "bouncing"), ("bounces up and down", "bouncing up and down"), ("is bouncing", "hopping"),
              ("hops up and down", "hopping up and down"), ("jumps up and down", "jumping up and down")),
}  # fmt: skip
# Phrases that follow "on" / "against".
BACKGROUND_WORDS = {
  "black": ("a black background", "a plain black background", "black", "a pitch-black backdrop"),
  "gray": ("a gray background", "a grey background", "a plain gray backdrop", "gray"),
  "white": ("a white background", "a plain white background", "white", "a bright white backdrop"),
  "striped": ("a striped background", "a background of stripes", "a striped backdrop", "stripes"),
  "checkered": ("a checkered background", "a checkerboard", "a checked background", "a chessboard pattern"),
}
OPENINGS = ("", "", "", "", "a video of ", "a clip of ", "an animation of ")
IMAGE_OPENINGS = ("", "", "", "", "a picture of ", "an image of ")
JOINTS = (" and ", " and ", " and, in front of it, ", ", with ")


def paraphrase(objects: Sequence[Sequence[str]], background: str, rng: np.random.Generator) -> str:
  """Objects as (size, colour, shape[, motion]) words, in order (the second in front), on `background`."""
  moving = len(objects[0]) == 4
  opening = _pick(rng, OPENINGS if moving else IMAGE_OPENINGS)
  joint = _pick(rng, JOINTS)
  # After "a clip of" and after ", with" only a noun phrase reads well: "a clip of a disc drifting left".
  nouns = [bool(opening) or (place > 0 and joint == ", with ") or rng.random() < 0.3 for place in range(len(objects))]
  said = joint.join(_object(words, noun, rng) for words, noun in zip(objects, nouns, strict=True))
  where = f"{_pick(rng, ('on', 'on', 'against'))} {_pick(rng, BACKGROUND_WORDS[background])}"
  if rng.random() < 0.25 and not opening:
    return f"{where}, {said}"
  if rng.random() < 0.15 and not opening:
    return f"{said}; the background is {background}"
  return f"{opening}{said} {where}"


def _object(words: Sequence[str], noun: bool, rng: np.random.Generator) -> str:
  size, colour = _pick(rng, SIZE_WORDS[words[0]]), _pick(rng, COLOUR_WORDS[words[1]])
  shape = _shape(words[2], rng)
  order = rng.random()
  if order < 0.7:
    phrase = _with_article(f"{size} {colour} {shape}")
  elif order < 0.85:
    phrase = _with_article(f"{colour} {shape} that is {size}") + ("" if len(words) == 3 else ",")
  else:
    phrase = _with_article(f"{size} {shape} in {colour}")
  if len(words) == 3:
    return phrase
  verb, participle = MOTION_WORDS[words[3]][int(rng.integers(len(MOTION_WORDS[words[3]])))]
  return f"{phrase} {participle if noun else verb}"


def _shape(name: str, rng: np.random.Generator) -> str:
  if name in SHAPE_WORDS:
    return _pick(rng, SHAPE_WORDS[name])
  return _pick(rng, LETTER_WORDS).format(name.split()[1])


def _with_article(phrase: str) -> str:
  vowel = phrase[0] in "aeio" or phrase.startswith("uppercase")
  return f"{'an' if vowel else 'a'} {phrase}"


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
  return options[int(rng.integers(len(options)))]
