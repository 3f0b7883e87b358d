"""Tokenizers against the published rules."""

import warnings

import numpy as np
import pytest

from ivid.spec.cascade import TextSpec
from ivid.text import tokenizer


def test_byte_ids_follow_the_byt5_rule():
  ids, mask = tokenizer.ByteTokenizer().encode(["aé", "z"], 6)
  # 'a' is byte 97, 'é' is bytes 195 and 169 in UTF-8; offset 3, EOS 1, padding 0.
  np.testing.assert_array_equal(ids, [[100, 198, 172, 1, 0, 0], [125, 1, 0, 0, 0, 0]])
  np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])
  assert ids.dtype == np.int32 and mask.dtype == bool


def test_truncation_warns_once_with_count_and_limit():
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    ids, mask = tokenizer.ByteTokenizer().encode(["x" * 40, "y" * 50, "short"], 8)
  assert len(caught) == 1
  assert "51 tokens" in str(caught[0].message) and "limit of 8" in str(caught[0].message)
  assert mask[0].all() and ids[0, -1] == 1
  np.testing.assert_array_equal(ids[0, :7], np.full(7, ord("x") + 3))


def test_a_text_that_just_fits_is_not_truncated():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    ids, _ = tokenizer.ByteTokenizer().encode(["1234567"], 8)
  assert ids[0, -1] == 1


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_blank_prompt_is_one_line_of_error(text):
  with pytest.raises(ValueError, match="expected a prompt") as error:
    tokenizer.ByteTokenizer().encode(["fine", text], 8)
  assert "\n" not in str(error.value) and "text 1 of 2" in str(error.value)


def test_vocabulary_must_fit_the_embedding():
  with pytest.raises(ValueError, match="vocab_size=200.*259"):
    tokenizer.make_tokenizer(TextSpec(vocab_size=200))
  assert isinstance(tokenizer.make_tokenizer(TextSpec()), tokenizer.ByteTokenizer)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (b"a star", "text 1 of 2 is a bytes: expected a str"),
    (None, "text 1 of 2 is a NoneType: expected a str"),
    (b"a \xff star".decode("utf-8", "surrogateescape"), r"text 1 of 2 is no valid Unicode: character 2 \('\\udcff'\) has no UTF-8"),
  ],
)
def test_texts_of_the_wrong_type_and_invalid_unicode(text, message):
  with pytest.raises(ValueError, match=message) as error:
    tokenizer.ByteTokenizer().encode(["fine", text], 8)
  assert "\n" not in str(error.value)


def test_a_hundred_thousand_characters_are_cut():
  with pytest.warns(UserWarning, match="text of 100001 tokens truncated to the limit of 256: 'aaa"):
    ids, mask = tokenizer.ByteTokenizer().encode(["a" * 100_000], 256)
  assert mask.all() and ids[0, -1] == 1 and (ids[0, :-1] == 100).all()


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
  sentencepiece = pytest.importorskip("sentencepiece")
  folder = tmp_path_factory.mktemp("sentencepiece")
  corpus = folder / "corpus.txt"
  corpus.write_text("\n".join(f"a {c} {s} moves {d}" for c in ("red", "green", "blue") for s in ("circle", "star") for d in ("left", "up")))
  sentencepiece.SentencePieceTrainer.train(
    input=str(corpus), model_prefix=str(folder / "m"), vocab_size=40, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    hard_vocab_limit=False,
  )  # fmt: skip
  return str(folder / "m.model")


def test_sentencepiece_round_trip(model_path):
  sentencepiece = pytest.importorskip("sentencepiece")
  made = tokenizer.make_tokenizer(TextSpec(tokenizer=model_path))
  ids, mask = made.encode(["a red star moves up"], 32)
  count = int(mask.sum())
  assert ids[0, count - 1] == 1 and (ids[0, count:] == 0).all()
  reference = sentencepiece.SentencePieceProcessor(model_file=model_path)
  assert ids[0, : count - 1].tolist() == reference.encode("a red star moves up") and count < 20
  assert reference.decode(ids[0, : count - 1].tolist()) == "a red star moves up"
  with pytest.raises(ValueError, match="vocab_size=4"):
    tokenizer.make_tokenizer(TextSpec(tokenizer=model_path, vocab_size=4))
  assert made.vocab_size < 384  # fewer ids than rows, as T5 has 32,100 and 32,128


def test_missing_or_damaged_sentencepiece_model_is_named(tmp_path):
  pytest.importorskip("sentencepiece")
  with pytest.raises(ValueError, match="no SentencePiece model at"):
    tokenizer.make_tokenizer(TextSpec(tokenizer=str(tmp_path / "no.model")))
  (tmp_path / "bad.model").write_bytes(b"nonsense")
  with pytest.raises(ValueError, match="no readable SentencePiece model"):
    tokenizer.make_tokenizer(TextSpec(tokenizer=str(tmp_path / "bad.model")))
