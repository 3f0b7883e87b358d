"""Tokenizers: bytes as in ByT5 (2105.13626), SentencePiece as in T5 (1910.10683)."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Sequence

import numpy as np

from ivid.spec.cascade import TextSpec
from ivid.spec.errors import UserError
from ivid.spec.paths import check_file

BYTES = "bytes"
BYTE_OFFSET = 3  # ids 0, 1, 2 are pad, eos, unk
SHOWN_CHARACTERS = 60


class Tokenizer(abc.ABC):
  """Text to ids. Subclasses set `pad_id`, `eos_id` and `vocab_size` (one above the largest id they give)."""

  pad_id: int = 0
  eos_id: int = 1
  unk_id: int = 2
  vocab_size: int

  @abc.abstractmethod
  def tokens(self, text: str) -> list[int]:
    """Ids of the text, without EOS."""

  def token_lists(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Ids of each text with EOS, at most `max_tokens`; a truncated list still ends with EOS.

    Raises:
      UserError: a text is not a str, is empty or blank, or holds half of a surrogate pair (from decoding invalid bytes).
    """
    lists, cut = [], []
    for n, text in enumerate(texts):
      if not isinstance(text, str):
        raise UserError(f"text {n} of {len(texts)} is a {type(text).__name__}: expected a str")
      _check_unicode(text, n, len(texts))
      if not text.strip():
        raise UserError(f"text {n} of {len(texts)} is {text!r}: expected a prompt with at least one character that is not blank")
      ids = self.tokens(text)
      if len(ids) + 1 > max_tokens:
        cut.append((len(ids) + 1, text))
      lists.append([*ids[: max_tokens - 1], self.eos_id])
    if cut:
      count, text = max(cut)
      shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
      more = f" (the longest of {len(cut)} such texts)" if len(cut) > 1 else ""
      warnings.warn(f"text of {count} tokens{more} truncated to the limit of {max_tokens}: {shown!r}", stacklevel=2)
    return lists

  def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 [N, max_tokens], EOS appended, and mask bool [N, max_tokens], True on tokens (EOS too); see token_lists."""
    return pad_tokens(self.token_lists(texts, max_tokens), max_tokens, pad_id=self.pad_id)


class ByteTokenizer(Tokenizer):
  """UTF-8 bytes: byte b has id b + 3."""

  vocab_size = 256 + BYTE_OFFSET

  def tokens(self, text: str) -> list[int]:
    return [b + BYTE_OFFSET for b in text.encode("utf-8")]


class SentencePieceTokenizer(Tokenizer):
  """A SentencePiece .model file, such as T5's of 32,000 pieces.

  Raises:
    UserError: no such file, no readable model, or a model without EOS.
  """

  def __init__(self, path: str):
    try:
      import sentencepiece  # the byte tokenizer must work without it
    except ImportError:
      raise UserError(f"the tokenizer {path!r} needs the package sentencepiece: expected `pip install 'ivid[t5]'`") from None
    check_file(path, "SentencePiece model", "'bytes' or the path of a .model file")
    try:
      self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
      raise UserError(f"{path!r} is no readable SentencePiece model: {' '.join(str(error).split())}") from None
    self.eos_id, self.unk_id = self._processor.eos_id(), self._processor.unk_id()
    if self.eos_id < 0:
      raise UserError(f"SentencePiece model {path!r} has no EOS piece: T5 needs one")
    self.pad_id = max(self._processor.pad_id(), 0)  # padding is masked, so any id will do
    self.vocab_size = self._processor.get_piece_size()

  def tokens(self, text: str) -> list[int]:
    return self._processor.encode(text)


def _check_unicode(text: str, n: int, count: int) -> None:
  try:
    text.encode("utf-8")
  except UnicodeEncodeError as error:
    what = f"character {error.start} ({text[error.start]!r})"
    raise UserError(f"text {n} of {count} is no valid Unicode: {what} has no UTF-8; expected text decoded from valid UTF-8") from None


def pad_tokens(lists: Sequence[Sequence[int]], length: int, *, pad_id: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Lists of at most `length` ids as ids int32 [N, length] and mask bool [N, length]."""
  ids = np.full((len(lists), length), pad_id, np.int32)
  mask = np.zeros((len(lists), length), bool)
  for n, row in enumerate(lists):
    ids[n, : len(row)] = row
    mask[n, : len(row)] = True
  return ids, mask


def make_tokenizer(spec: TextSpec) -> Tokenizer:
  """The tokenizer that the spec names.

  Raises:
    UserError: its vocabulary has more ids than the encoder's embedding has rows.
  """
  tokenizer = ByteTokenizer() if spec.tokenizer == BYTES else SentencePieceTokenizer(spec.tokenizer)
  if tokenizer.vocab_size > spec.vocab_size:
    raise UserError(
      f"text.vocab_size={spec.vocab_size}: tokenizer {spec.tokenizer!r} has {tokenizer.vocab_size} ids, expected at least as many rows"
    )
  return tokenizer
