"""What the embeddings in a folder depend on."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Annotated

from ivid.media.files import write_whole
from ivid.spec import formats
from ivid.spec.errors import UserError
from ivid.spec.files import read_spec
from ivid.spec.limits import MOST_CHANNELS, MOST_TOKENS
from ivid.spec.names import check_name
from ivid.spec.ranges import Range, check_ranges

KEY_FILE, SUFFIX = "key.json", ".array_record"
MOST_CAPTIONS = 1 << 40  # of a folder
MOST_SHARDS = 1 << 20  # in a folder; each of them is looked for


@dataclasses.dataclass(frozen=True)
class Key:
  """What embeddings depend on, and how they are cut into shards.

  Attributes:
    encoder: its name.
    weights: its hash (ivid.text.identity).
    tokenizer: "bytes", or SHA-256 of the SentencePiece model.
    length: captions are truncated to so many tokens.
    dim: width of an embedding.
    captions: number of different captions, without blank ones.
    shard_size: captions per shard.
    digest: SHA-256 of all captions, or of their digests.
  """

  encoder: str
  weights: str
  tokenizer: str
  length: Annotated[int, Range(1, MOST_TOKENS)]
  dim: Annotated[int, Range(1, MOST_CHANNELS)]
  captions: Annotated[int, Range(1, MOST_CAPTIONS)]
  shard_size: Annotated[int, Range(1, MOST_CAPTIONS)]
  digest: str

  def __post_init__(self):
    check_name(self.encoder, "encoder")
    check_ranges(self, "")
    if self.shards > MOST_SHARDS:
      raise UserError(f"captions={self.captions} in shards of shard_size={self.shard_size}: expected at most {MOST_SHARDS} shards")

  @property
  def shards(self) -> int:
    return max(1, math.ceil(self.captions / self.shard_size))

  @property
  def folder(self) -> str:
    """Name of the folder. Embeddings with different weights, tokenizers or lengths have different folders."""
    return f"{self.encoder}-{self.weights[:12]}-{self.tokenizer[:12]}-{self.length}"

  def shard(self, n: int) -> str:
    return f"embeddings-{n:05}-of-{self.shards:05}{SUFFIX}"


def write_key(folder: pathlib.Path, key: Key) -> None:
  """Writes the key of the embeddings in a folder."""
  write_whole(folder / KEY_FILE, json.dumps(formats.stamped(dataclasses.asdict(key)), indent=1) + "\n")


def read_key(folder: pathlib.Path) -> Key:
  """Reads what `write_key` wrote. Raises UserError if the file is something else or has a newer format."""
  return read_spec(Key, folder / KEY_FILE, formats.Kind.EMBEDDINGS)
