"""Options of commands: dataclasses whose fields are flags, and what the numbers of the other flags may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ivid.spec.limits import LARGEST_NUMBER, LARGEST_SEED, MOST_CLIPS, MOST_FPS, MOST_SAMPLES, MOST_TOKENS, MOST_UPDATES
from ivid.spec.ranges import Range

# By the flag's name, which means the same in every command; a command's own lower bound may be above.
NUMBERS = {
  "batch_size": Range(0, MOST_CLIPS),
  "ema": Range(0, 1, above=True),
  "first_sample": Range(0, LARGEST_SEED),
  "fps": Range(0, MOST_FPS, above=True),
  "learning_rate": Range(0, LARGEST_NUMBER, above=True),
  "max_tokens": Range(1, MOST_TOKENS),
  "num_clips": Range(1, 1_000_000_000),  # days of drawing, but none of them is in memory longer than it takes
  "num_samples": Range(1, MOST_SAMPLES),
  "prompts": Range(1, MOST_SAMPLES),
  "repeats": Range(1, 1_000_000),  # each is timed and kept
  "seed": Range(-LARGEST_SEED, LARGEST_SEED),
  "shard_size": Range(1, 1_000_000),  # captions whose embeddings are in memory together
  "steps": Range(1, MOST_UPDATES),
  "workers": Range(0, 4096),  # processes of one machine
}

# Flags of `ivid sample` about what the base starts from and how long it goes on.
STARTS = {
  "first_frame": "Picture that the clip starts with: the base keeps it as it is, at its own size.",
  "given": "Clip whose frames the base keeps: clip.mp4:0-4,12 (numbers of the base's frames), or clip.mp4, all that it has.",
  "seconds": "How long the clip is to be, such as 20; default: as long as the base was trained for.",
}


def option(default: Any, text: str) -> Any:
  """A field with the words that describe its flag."""
  return dataclasses.field(default=default, metadata={"help": text})


def check_numbers(values: Mapping[str, Any]) -> None:
  """UserError for the first number out of its Range in NUMBERS; other values, and names that are not there, are left to their readers."""
  for name, value in values.items():
    if name in NUMBERS and isinstance(value, int | float):
      NUMBERS[name].check(value, f"--{name}")
