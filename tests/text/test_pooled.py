"""The pool's embeddings on disk: the encoder's own bits, written once, whole or not at all."""

import multiprocessing
import threading
import time

import numpy as np
import pytest

from ivid.media import scratch
from ivid.media.scratch import POLL_SECONDS, lock_file
from ivid.spec.cascade import TextSpec
from ivid.text import encoder, pooled
from tests.text import t5_trees

SPEC = TextSpec(name="small", dim=16, layers=1, heads=2, head_dim=8, mlp_dim=24, max_tokens=48)
POOL = [f"caption number {n} {'long ' * (n % 3)}" for n in range(32)] + ["caption number 3 "]


def make(seed=0):
  params = t5_trees.flat(spec=SPEC)
  return encoder.TextEncoder(SPEC, t5_trees.nested({name: array + seed for name, array in params.items()}))


class Counting:
  """An encoder that counts what it is asked for."""

  def __init__(self, inner):
    self.spec, self.hash, self.inner, self.written, self.asked = inner.spec, inner.hash, inner, [], []

  def rows(self, captions, length):
    self.written += captions
    return self.inner.rows(captions, length)

  def embed(self, captions, *, length=None):
    self.asked += captions
    return self.inner.embed(captions, length=length)


@pytest.fixture(scope="module")
def small():
  return make()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small):
  return pooled.write_pool(tmp_path_factory.mktemp("pool"), small, POOL, length=32, shard_size=10)


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_encoders_own_bits(small, folder):
  """In whatever batches: those of the pool were embedded ten at a time, here they are embedded afresh in another order."""
  counting = Counting(small)
  found = pooled.PooledEmbedder(folder, counting, POOL)
  asked = [POOL[7], "never seen", *POOL[::-3], "nor this", POOL[7]]
  have, have_mask = found.embed(asked, length=32)
  want, want_mask = make().embed(asked, length=32)
  assert found.hash == small.hash and counting.asked == ["never seen", "nor this"]
  assert have.dtype == want.dtype and have.shape == want.shape and have.tobytes() == want.tobytes()
  np.testing.assert_array_equal(have_mask, want_mask)
  assert np.abs(have[0, have_mask[0]].astype(np.float32)).mean() > 0.1


def test_another_length_goes_to_the_encoder(small, folder):
  counting = Counting(small)
  found = pooled.PooledEmbedder(folder, counting, POOL)
  for length in (16, None):
    have, _ = found.embed(POOL[:3], length=length)
    assert have.tobytes() == small.embed(POOL[:3], length=length)[0].tobytes()
  assert counting.asked == POOL[:3] * 2
  with pytest.raises(ValueError, match="blank"):
    found.embed([POOL[0], " "], length=32)


def test_a_killed_write_goes_on_and_is_not_half_read(tmp_path, small, folder, monkeypatch):
  counting, saved = Counting(small), np.save

  def torn(path, array):
    if "rows-00002" in str(path):
      path.write_bytes(b"half")
      raise KeyboardInterrupt
    saved(path, array)

  monkeypatch.setattr(np, "save", torn)
  monkeypatch.setattr(scratch, "remove", lambda path: None)  # a killed process tidies up nothing
  with pytest.raises(KeyboardInterrupt):
    pooled.write_pool(tmp_path, counting, POOL, length=32, shard_size=10)
  monkeypatch.undo()
  assert [path.name for path in (tmp_path / folder.name).glob(".writing-*/*")] == ["rows-00002.npy"]
  scratch._swept.clear()  # as in a new process
  with pytest.raises(ValueError, match="is unfinished: 2 of 4 shards"):
    pooled.PooledEmbedder(tmp_path / folder.name, counting, POOL)
  assert len(counting.written) == 30
  shown = []
  again = pooled.write_pool(tmp_path, counting, POOL[::-1], length=32, shard_size=10, progress=lambda *p: shown.append(p))
  assert len(counting.written) == 30 + 12 and contents(again) == contents(folder)
  assert shown[0] == (20, 32) and shown[-1] == (32, 32)
  pooled.write_pool(tmp_path, counting, POOL, length=32, shard_size=10, progress=lambda *p: pytest.fail("nothing to do"))
  assert len(counting.written) == 42


def test_a_cache_of_another_encoder_is_not_taken(tmp_path, small, folder):
  other = make(seed=0.5)
  made = pooled.write_pool(folder.parent, other, POOL, length=32, shard_size=10)
  assert made != folder
  with pytest.raises(ValueError, match="weights is .*expected"):
    pooled.PooledEmbedder(folder, other, POOL)
  with pytest.raises(ValueError, match="captions is 32, expected 31"):
    pooled.PooledEmbedder(folder, small, sorted(set(POOL))[1:])
  with pytest.raises(ValueError, match="digest is"):
    pooled.PooledEmbedder(folder, small, [*sorted(set(POOL))[1:], "another"])
  have = pooled.PooledEmbedder(made, other, POOL).embed(POOL[:4], length=32)[0]
  assert have.tobytes() == other.embed(POOL[:4], length=32)[0].tobytes() != small.embed(POOL[:4], length=32)[0].tobytes()


def test_a_damaged_shard(tmp_path, small):
  made = pooled.write_pool(tmp_path, small, POOL, length=32, shard_size=10)
  np.save(made / "rows-00001.npy", np.zeros((3, 16), np.uint16))
  with pytest.raises(ValueError, match=r"rows-00001.npy is damaged: \(3, 16\), expected \(\d+, 16\); delete it"):
    pooled.PooledEmbedder(made, small, POOL)


def hold(path, held, release):
  with lock_file(path):
    held.set()
    release.wait(60)


def test_one_process_writes_the_others_wait(tmp_path, small, folder):
  """The lock is another process's, which is killed: the kernel gives it to the next."""
  inside = tmp_path / folder.name
  inside.mkdir()
  context = multiprocessing.get_context("spawn")
  held, release = context.Event(), context.Event()
  other = context.Process(target=hold, args=(inside / pooled.LOCK_FILE, held, release))
  other.start()
  assert held.wait(120)
  counting, shown = Counting(small), []
  options = dict(length=32, shard_size=10, progress=lambda *pair: shown.append(pair))
  writer = threading.Thread(target=pooled.write_pool, args=(tmp_path, counting, POOL), kwargs=options)
  writer.start()
  time.sleep(2 * POLL_SECONDS)
  assert writer.is_alive() and not counting.written and shown and set(shown) == {(0, 32)}
  other.kill()
  writer.join(60)
  assert not writer.is_alive() and len(counting.written) == 32 and contents(inside) == contents(folder)
