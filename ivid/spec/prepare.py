"""What `ivid data prepare` is asked to make of a folder or a list."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated

from ivid.spec.errors import UserError
from ivid.spec.limits import LARGEST_NUMBER, MOST_SIDE, MOST_TOKENS
from ivid.spec.names import check_name
from ivid.spec.options import option
from ivid.spec.ranges import Range, check_ranges

SHARD_ITEMS, MOST_ITEMS = 1000, 1_000_000
_Test = Annotated[int, Range(-1, MOST_ITEMS)]
_Side = Annotated[int, Range(0, MOST_SIDE)]
_Seconds = Annotated[float, Range(0, LARGEST_NUMBER, above=True, words="a positive number of seconds")]
_Least = Annotated[float, Range(0, LARGEST_NUMBER)]


@dataclasses.dataclass(frozen=True)
class PrepareSpec:
  """Where clips and images come from, which of them stay, and how they are written; every field is a flag of that name."""

  input: str = option("", "a folder of clips and images with captions beside them (.txt or .json), or a list: .csv, .jsonl or .parquet")
  name: str = option("clips", "of the data set: tfds:NAME; import-t5: of the encoder, by default its published one or t5")
  media_column: str = option("path", "of a list: paths or addresses, relative to the list")
  caption_column: str = option("caption", "of a list: a caption, or several")
  background: str = option("#000000", "what transparent pictures lie on: a colour, or the column that has it")
  split_by: str = option("", "a column whose values stay together in one split; empty: each item by its path")
  num_test: _Test = option(-1, "items of the validation split; -1: a twentieth of them, at least 1 and at most 1000, from three items on")
  max_side: _Side = option(0, "encode anew what is larger, clips with a key frame for every second; 0: the files' own bytes")
  min_seconds: _Least = option(0.0, "of clips")
  max_seconds: _Least = option(0.0, "of clips; 0: any")
  min_side: _Side = option(0, "of the shorter side, in pixels")
  max_aspect: _Least = option(0.0, "longer over shorter side; 0: any")
  min_fps: _Least = option(0.0, "of clips")
  max_fps: _Least = option(0.0, "of clips; 0: any")
  min_characters: Annotated[int, Range(1, MOST_TOKENS)] = option(1, "of captions")
  caption_without: str = option("", "a regular expression: captions in which it is found are left out")
  timeout: _Seconds = option(60.0, "seconds for which one file may take to arrive")
  shard_items: Annotated[int, Range(1, MOST_ITEMS)] = option(SHARD_ITEMS, "lines of the list, or files, of one shard")

  def __post_init__(self):
    if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
      raise UserError(f"--name={self.name}: expected small letters, digits and underscores, such as my_clips")
    check_name(self.name, "--name")
    check_ranges(self, "--")
    if self.max_side == 1:
      raise UserError("--max_side=1: expected 2 or more, or 0 for the files' own bytes")
    try:
      re.compile(self.caption_without)
    except re.error as error:
      raise UserError(f"--caption_without={self.caption_without}: {error}") from None


def colour(text: str) -> tuple[int, int, int] | None:
  """Red, green and blue of "#rrggbb"; None if it is something else."""
  match = re.fullmatch(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text.strip())
  return (int(match[1], 16), int(match[2], 16), int(match[3], 16)) if match else None


def process_of(text: str) -> tuple[int, int] | None:
  """Index and count of --process=INDEX/COUNT; None if it is not given."""
  if not text:
    return None
  match = re.fullmatch(r"(\d+)/(\d+)", text)
  if not match or int(match[1]) >= int(match[2]):
    raise UserError(f"--process={text}: expected INDEX/COUNT with INDEX from 0 to COUNT - 1, such as 0/4")
  return int(match[1]), int(match[2])
