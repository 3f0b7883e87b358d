"""TextEncoder: batches, cache, hash, folder; and the encoder that ships."""

import dataclasses
import pathlib
import threading
import warnings

import jax
import numpy as np
import pytest

import ivid
from ivid.spec.cascade import TextSpec
from ivid.text import encoder, t5

SMALL = TextSpec(dim=16, layers=1, heads=2, head_dim=8, mlp_dim=24, max_tokens=32)
SHIPPED = pathlib.Path(ivid.__file__).parent / "pretrained" / "nano" / "text"


@pytest.fixture(scope="module")
def params():
  # Numpy instead of t5.init_params: compiling the random generators takes longer than all these tests.
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: t5.init_params(jax.random.key(0), SMALL))
  return jax.tree.map(lambda x: rng.normal(size=x.shape, scale=x.shape[0] ** -0.5).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def small(params):
  return encoder.TextEncoder(SMALL, params)


def _bits(x):
  return np.ascontiguousarray(x).view(np.uint16)


def test_shapes_dtype_and_zero_padding(small):
  embeddings, mask = small.embed(["a red star", "b"], length=24)
  assert embeddings.shape == (2, 24, 16) and embeddings.dtype == encoder.STORED
  np.testing.assert_array_equal(mask.sum(1), [11, 2])
  assert (embeddings[~mask] == 0).all() and (embeddings[mask] != 0).any(-1).all()
  assert small.embed(["b"])[0].shape == (1, 32, 16)


def test_bits_do_not_depend_on_the_batch_or_the_cache(params, small):
  captions = [f"number {n}" for n in range(21)]
  together = small.embed(captions)[0]
  again = small.embed(captions[::-1])[0][::-1]  # from the cache
  np.testing.assert_array_equal(_bits(together), _bits(again))
  fresh = encoder.TextEncoder(SMALL, params)
  for n in (20, 3):
    np.testing.assert_array_equal(_bits(fresh.embed([captions[n]])[0][0]), _bits(together[n]))
  assert np.abs(together[0].astype(np.float32) - together[1].astype(np.float32)).max() > 0


def test_cache_is_bounded_and_drops_the_oldest(params):
  made = encoder.TextEncoder(SMALL, params, cache_size=2)
  made.embed(["one", "two"])
  made.embed(["one"])
  made.embed(["three"])
  assert {caption for caption, _ in made._cache} == {"one", "three"}
  made.embed(["four", "five", "six"])  # more than the cache holds, all given back nevertheless
  assert len(made._cache) == 2


def test_lists_of_no_captions_and_wrong_lengths(small):
  assert small.embed([])[0].shape == (0, 32, 16)
  for length in (0, 33):
    with pytest.raises(ValueError, match=f"text length {length}: expected 1 to"):
      small.embed(["a"], length=length)
  with pytest.raises(ValueError, match="expected a prompt"):
    small.embed(["a", " "])


def test_too_long_a_caption_warns_and_fills_the_length(small):
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    _, mask = small.embed(["w" * 100], length=32)
  assert len(caught) == 1 and "101 tokens" in str(caught[0].message) and "limit of 32" in str(caught[0].message)
  assert mask.all()


def test_threads_agree(small):
  captions = [f"thread {n}" for n in range(12)]
  results = [None] * 4

  def work(n):
    results[n] = small.embed(captions)[0]

  threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  for other in results[1:]:
    np.testing.assert_array_equal(_bits(results[0]), _bits(other))


def test_folder_keeps_hash_and_bits(tmp_path, params, small):
  encoder.save_encoder(tmp_path / "text", SMALL, params)
  loaded = encoder.load_encoder(tmp_path / "text")
  assert loaded.spec == SMALL and loaded.hash == small.hash
  np.testing.assert_array_equal(_bits(loaded.embed(["a blue ring"])[0]), _bits(small.embed(["a blue ring"])[0]))
  assert sorted(p.name for p in (tmp_path / "text").iterdir()) == ["spec.json", "weights.safetensors"]


def test_hash_sees_parameters_and_spec(params, small):
  changed = jax.tree.map(np.array, params)
  changed["encoder"]["encoder_norm"]["scale"][3] += 0.01
  assert encoder.encoder_hash(SMALL, changed) != small.hash
  assert encoder.encoder_hash(dataclasses.replace(SMALL, max_tokens=48), params) != small.hash
  assert encoder.encoder_hash(SMALL, jax.tree.map(np.array, params)) == small.hash


def test_wrong_parameters_and_folders_are_named(tmp_path, params):
  with pytest.raises(ValueError, match="parameter encoder/layers_1/.* is missing"):
    encoder.TextEncoder(dataclasses.replace(SMALL, layers=2), params)
  with pytest.raises(ValueError, match=r"wi_0/kernel has shape \(16, 24\), expected \(16, 25\)"):
    encoder.TextEncoder(dataclasses.replace(SMALL, mlp_dim=25), params)
  with pytest.raises(ValueError, match="no text encoder at"):
    encoder.load_encoder(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def shipped():
  assert (SHIPPED / "weights.safetensors").is_file(), SHIPPED
  return encoder.load_encoder(SHIPPED)


def test_shipped_encoder_has_the_default_spec(shipped):
  assert shipped.spec == TextSpec()


def _pooled(made, captions):
  embeddings, mask = made.embed(captions, length=128)
  rows = embeddings.astype(np.float32).sum(1) / mask.sum(1, keepdims=True)
  rows = rows - rows.mean(0)
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_shipped_encoder_brings_paraphrases_together_and_keeps_scenes_apart(shipped):
  pairs = [
    ("a large red circle moves left on a black background", "a huge crimson disc is moving to the left on black"),
    ("a small green square spins on a white background", "a tiny emerald box rotates on a plain white background"),
    ("a large blue star grows on a striped background", "a giant royal blue star shape expands on a background of stripes"),
    ("a small yellow ring moves up on a checkered background", "a little bright yellow hoop rises against a checkerboard"),
  ]
  first, second = _pooled(shipped, [a for a, _ in pairs] + [b for _, b in pairs]).reshape(2, len(pairs), -1)
  likeness = first @ second.T
  np.testing.assert_array_equal(likeness.argmax(1), np.arange(len(pairs)))
  assert np.diag(likeness).min() > likeness[~np.eye(len(pairs), dtype=bool)].max()


def test_shipped_encoder_separates_colours(shipped):
  colours = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")

  def rows(shape, motion):
    return _pooled(shipped, [f"a small {c} {shape} {motion} on a gray background" for c in colours])

  # Colour directions found on one shape and motion must name the colours of another.
  np.testing.assert_array_equal((rows("triangle", "moves up") @ rows("cross", "grows").T).argmax(0), np.arange(len(colours)))
