"""Embeddings on disk: what is read is what was computed, whoever wrote it and however often it was stopped."""

import dataclasses
import json
import shutil
import warnings

import jax
import numpy as np
import pytest

from ivid.spec.cascade import TextSpec
from ivid.spec.formats import FORMAT
from ivid.text import encoder, stored
from tests.text import t5_trees

SPEC = TextSpec(name="small", dim=16, layers=1, heads=2, head_dim=8, mlp_dim=24, max_tokens=48)
CAPTIONS = [f"caption number {n}" for n in range(11)] + ["é", "a red star", " ", ""]


def make(**changes):
  spec = dataclasses.replace(SPEC, **changes)
  return encoder.TextEncoder(spec, t5_trees.nested(t5_trees.flat(spec=spec)), batch_size=4)


@pytest.fixture(scope="module")
def small():
  return make()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small):
  return stored.write_embeddings(tmp_path_factory.mktemp("all"), small, [*CAPTIONS, *CAPTIONS], length=32, shard_size=5)


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_read_is_what_was_computed(small, folder):
  found = stored.StoredEmbeddings(folder)
  assert found.hash == small.hash and found.key.captions == 13 and found.key.shards == 3
  asked = [text for text in CAPTIONS[::-1] if text.strip()] * 2
  have, have_mask = found.embed(asked, length=32)
  want, want_mask = small.embed(asked, length=32)
  assert have.dtype == want.dtype and have.shape == want.shape == (26, 32, 16)
  np.testing.assert_array_equal(have_mask, want_mask)
  # The encoder rounds in batches of another size here.
  np.testing.assert_allclose(have.astype(np.float32), want.astype(np.float32), atol=0.02)
  rows = small.rows(asked, 32)
  for n, text in enumerate(asked):
    assert have[n, have_mask[n]].tobytes() == rows[text].tobytes()
  assert np.abs(have[have_mask].astype(np.float32)).mean() > 0.1
  blank, mask = found.embed(["a red star", " "])
  assert mask[0].any() and not mask[1].any() and not blank[1].any()


def test_records_hold_no_padding(folder):
  found = stored.StoredEmbeddings(folder)
  sizes = sorted(len(found._records[n]) for n in range(13))
  numbers = sorted((len(text.encode()) + 1) * 16 * 2 for text in CAPTIONS if text.strip())
  assert all(n < size < n + 60 for n, size in zip(numbers, sizes, strict=True))


def test_a_stopped_run_goes_on(tmp_path, small, folder):
  class Counting:
    spec, hash, calls = small.spec, small.hash, 0

    def rows(self, captions, length):
      self.calls += len(captions)
      return small.rows(captions, length)

  def stop(done, total):
    if done == 2:
      raise KeyboardInterrupt

  counting = Counting()
  with pytest.raises(KeyboardInterrupt):
    stored.write_embeddings(tmp_path, counting, CAPTIONS, length=32, shard_size=5, progress=stop)
  with pytest.raises(ValueError, match="is unfinished: 2 of 3 shards; the same `ivid data embed` goes on"):
    stored.StoredEmbeddings(tmp_path)
  assert counting.calls == 10
  again = stored.write_embeddings(tmp_path, counting, CAPTIONS[::-1], length=32, shard_size=5)
  assert counting.calls == 13 and again.name == folder.name
  assert contents(again) == contents(folder)


def test_processes_share_the_shards(tmp_path, small, folder):
  for n in (0, 1):
    made = stored.write_embeddings(tmp_path, small, CAPTIONS, length=32, shard_size=5, process_index=n, process_count=2)
    assert len(list(made.glob("*.array_record"))) == (2, 3)[n]
  assert contents(made) == contents(folder)


def test_other_encoders_and_lengths_have_folders_of_their_own(tmp_path, small):
  other = make(max_tokens=40)
  folders = {stored.write_embeddings(tmp_path, e, ["a"], length=n) for e, n in ((small, 32), (small, 16), (other, 32))}
  assert len(folders) == 3
  with pytest.raises(ValueError, match="holds several embeddings: expected the path of one of small-"):
    stored.StoredEmbeddings(tmp_path)


def test_digests_that_meet(tmp_path, small, monkeypatch):
  monkeypatch.setattr(stored, "caption_digest", lambda caption: len(caption))
  found = stored.StoredEmbeddings(stored.write_embeddings(tmp_path, small, ["ab", "cd", "ef", "long"], length=32))
  for text in ("cd", "ef", "ab"):
    have, mask = found.embed([text])
    assert have[0, mask[0]].tobytes() == small.rows([text], 32)[text].tobytes()
  with pytest.raises(ValueError, match="has no embedding of 'gh'"):
    found.embed(["gh"])


def test_errors_are_one_line(tmp_path, small, folder):
  found = stored.StoredEmbeddings(folder)
  with pytest.raises(ValueError, match="has no embedding of 'never seen': expected one of the 13 captions"):
    found.embed(["never seen"])
  with pytest.raises(ValueError, match="text length 64: .* was embedded with 32"):
    found.embed(["a red star"], length=64)
  with pytest.raises(ValueError, match="no embeddings at .*nowhere"):
    stored.StoredEmbeddings(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="has no caption that is not blank"):
    stored.write_embeddings(tmp_path, small, ["", " \n"], length=32)
  made = stored.write_embeddings(tmp_path, small, ["a"], length=32)
  with pytest.raises(ValueError, match=r"holds embeddings of other captions or shards \(captions is 1, now 2\)"):
    stored.write_embeddings(tmp_path, small, ["a", "b"], length=32)
  np.save(made / "index.npy", np.zeros(3, np.uint64))
  with pytest.raises(ValueError, match=r"index.npy is damaged: \(3,\), expected \(1,\)"):
    stored.StoredEmbeddings(made)
  (made / "key.json").write_text('{"length": 3')
  with pytest.raises(ValueError, match="key.json is no JSON"):
    stored.StoredEmbeddings(made)


def test_keys_of_other_formats(tmp_path, folder):
  made = tmp_path / "made"
  shutil.copytree(folder, made)
  key = json.loads((made / "key.json").read_text())
  assert key.pop("format") == FORMAT
  (made / "key.json").write_text(json.dumps(key))  # as it was before files carried a format
  assert stored.StoredEmbeddings(made).key == stored.read_key(folder)
  (made / "key.json").write_text(json.dumps(key | {"format": FORMAT + 1, "colour": "red"}))
  with pytest.raises(ValueError, match=f"^{made / 'key.json'} was written by a newer ivid: format {FORMAT + 1}, this one reads up to"):
    stored.StoredEmbeddings(made)


def test_a_hundred_thousand_characters(tmp_path, small):
  long = "lorem ipsum " * 8334
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = stored.StoredEmbeddings(stored.write_embeddings(tmp_path, small, [long], length=32))
  assert [str(w.message) for w in caught if "100009 tokens" in str(w.message) and "limit of 32" in str(w.message)]
  have, mask = found.embed([long])
  assert mask.all() and jax.numpy.isfinite(have.astype(np.float32)).all()
