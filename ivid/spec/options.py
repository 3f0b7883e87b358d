"""Dataclasses whose fields are options of a command."""

from __future__ import annotations

import dataclasses
from typing import Any


def option(default: Any, text: str) -> Any:
  """A field with the words that describe its flag."""
  return dataclasses.field(default=default, metadata={"help": text})
