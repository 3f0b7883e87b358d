"""The dual encoder of retrieval and its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.nets.retrieval import DualEncoder, Tracks, contrastive_loss
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.retrieval import RetrievalSpec

SPEC = RetrievalSpec(
  ClipShape(4, 8, 12, 1.0), 2, 2, channels=(4, 8), head_dim=4, maps=3, queries=2, hidden=8, dim=6, text_dim=5, max_tokens=7
)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_loss_is_both_cross_entropies():
  rng = np.random.default_rng(0)
  clips, captions = (unit(rng.normal(size=(3, 4))).astype(np.float32) for _ in range(2))
  found = contrastive_loss(clips, captions, jnp.float32(5), np.eye(3, dtype=bool))
  logits = 5 * clips @ captions.T
  want = [-(np.log(np.exp(row)[n] / np.exp(row).sum()) + np.log(np.exp(col)[n] / np.exp(col).sum())) / 2 for n, (row, col) in
          enumerate(zip(logits, logits.T, strict=True))]  # fmt: skip
  np.testing.assert_allclose(found, want, rtol=1e-5)


def test_equal_captions_are_no_wrong_answers():
  """Two clips of one caption: as if each had been alone with the third pair."""
  rng = np.random.default_rng(1)
  clips, captions = (unit(rng.normal(size=(3, 4))).astype(np.float32) for _ in range(2))
  captions[1] = captions[0]
  same = np.eye(3, dtype=bool)
  same[0, 1] = same[1, 0] = True
  found = contrastive_loss(clips, captions, jnp.float32(5), same)
  alone = contrastive_loss(clips[[0, 2]], captions[[0, 2]], jnp.float32(5), np.eye(2, dtype=bool))
  np.testing.assert_allclose(found[0], alone[0], rtol=1e-5)
  assert contrastive_loss(clips, captions, jnp.float32(5), np.eye(3, dtype=bool))[0] > found[0] + 0.1


@pytest.fixture(scope="module")
def outputs():
  """Vectors of clips, of captions, and of changed ones of both."""
  rng = np.random.default_rng(2)
  clips, tokens = rng.uniform(-1, 1, (2, 4, 8, 12, 3)).astype(np.float32), rng.normal(size=(2, 7, 5)).astype(np.float32)
  mask = np.arange(7) < np.array([[3], [7]])
  other = tokens.copy()
  other[0, 3:] = 9.0  # behind the first caption's end
  net = DualEncoder(SPEC)
  params = jax.jit(net.init)(jax.random.key(0), clips, tokens, mask)
  run = jax.jit(net.apply)
  return run(params, clips, tokens, mask), run(params, clips[:, ::-1], other, mask)


def test_vectors_have_length_one(outputs):
  for vectors in outputs[0][:2]:
    assert vectors.shape == (2, 6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-3)


def test_padding_is_not_looked_at_and_time_is(outputs):
  (clips, captions, scale), (reversed_clips, other, _) = outputs
  np.testing.assert_array_equal(captions, other)
  assert np.abs(clips - reversed_clips).max() > 1e-3 and scale == pytest.approx(1 / 0.07)


def test_tracks_follow_what_moves():
  """A bright dot on black, moved by one patch to the right: so does the mean place of the map that answers to it."""
  spec = RetrievalSpec(ClipShape(2, 8, 16, 1.0), 2, 2, maps=1)
  clip = np.full((1, 2, 8, 16, 3), -1, np.float32)
  clip[0, 0, 2:4, 4:6] = clip[0, 1, 2:4, 6:8] = 1
  kernel = np.zeros((3, 3, 12, 1), np.float32)
  kernel[1, 1] = 5
  params = dict(colours=dict(kernel=kernel, bias=np.zeros(1)), maps=dict(kernel=np.ones((1, 1)), bias=np.zeros(1)))
  found = Tracks(spec).apply({"params": params}, clip).reshape(2, 6)
  columns, rows = np.linspace(-2, 2, 8), np.linspace(-1, 1, 4)
  np.testing.assert_allclose(found[:, :2], [[columns[2], rows[1]], [columns[3], rows[1]]], atol=1e-5)
  np.testing.assert_allclose(found[:, 2:5], 0, atol=1e-4)
  np.testing.assert_allclose(found[:, 5], 4 * (31 * 0.5 + 1) / 32, rtol=1e-3)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(head_dim=3), "expected some, the last a multiple of head_dim=3"),
    (dict(channels=()), "expected some"),
    (dict(frames_per_patch=3), "expected frames that are a multiple of frames_per_patch=3"),
    (dict(patch=7), "multiples of patch=7"),
    (dict(dim=0), "dim=0: expected 1 or more"),
  ],
)
def test_a_spec_that_cannot_be(options, message):
  with pytest.raises(UserError, match=message):
    RetrievalSpec(**options)
