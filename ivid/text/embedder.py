"""The interface of a text encoder for training and sampling, whether it computes embeddings or reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Embedder(Protocol):
  """Captions to embeddings.

  Attributes:
    hash: of the encoder (ivid.text.identity), as stages record it.
  """

  hash: str

  def embed(self, captions: Sequence[str], *, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings bfloat16 [N, length, D], zero on padding, and mask bool [N, length]."""
    ...
