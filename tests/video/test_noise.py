"""Tiles of noise equal the same place of the whole. Few shapes: each one compiles for seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.programs import Program
from ivid.video.noise import block_noise
from tests.compiling import compilations

WHOLE = (16, 16, 24, 3)


@pytest.fixture(scope="module")
def make_whole():
  return Program("noise", lambda key: block_noise(key, shape=WHOLE)).jit()


@pytest.fixture(scope="module")
def whole(make_whole):
  return np.asarray(make_whole(jax.random.key(3)))


def test_fixed_tile_is_a_slice_of_the_whole(whole):
  tile = Program("noise", lambda key: block_noise(key, shape=(9, 2, 8, 3), origin=(3, 9, 16))).jit()
  np.testing.assert_array_equal(tile(jax.random.key(3)), whole[3:12, 9:11, 16:24])


def test_one_program_serves_every_origin(whole):
  shape = (3, 9, 10, 3)
  tile = Program("noise", lambda key, origin: block_noise(key, shape=shape, origin=tuple(origin))).jit()
  for n, (t, h, w) in enumerate([(0, 0, 0), (7, 7, 7), (8, 0, 8), (13, 7, 14)]):
    key, origin = jax.random.key(3), jnp.array([t, h, w])
    with compilations() as compiled:
      drawn = tile(key, origin)
    np.testing.assert_array_equal(drawn, whole[t : t + 3, h : h + 9, w : w + 10])
    assert (compiled == []) is (n > 0)


def test_is_standard_normal_and_blocks_differ(whole):
  assert abs(whole.mean()) < 0.04 and abs(whole.std() - 1) < 0.04
  blocks = whole.reshape(2, 8, 2, 8, 3, 8, 3).transpose(0, 2, 4, 1, 3, 5, 6).reshape(12, -1)
  assert np.abs(np.corrcoef(blocks) - np.eye(12)).max() < 0.2


def test_keys_differ(make_whole, whole):
  assert abs(np.corrcoef(whole.ravel(), np.asarray(make_whole(jax.random.key(4))).ravel())[0, 1]) < 0.1


def test_nothing_lies_before_the_clip():
  with pytest.raises(AssertionError, match="-8"):
    block_noise(jax.random.key(0), shape=(1, 1, 1, 3), origin=(0, -8, 0))


def test_a_block_holds_what_jax_draws(whole):
  """Clips that were drawn with JAX's own Threefry stay the same, bit for bit."""
  key = jax.random.key(3)
  for place in (1, 0, 2), (0, 1, 1):
    of_block = key
    for index in place:
      of_block = jax.random.fold_in(of_block, index)
    t, h, w = (8 * index for index in place)
    drawn = jax.random.normal(of_block, (8 * 8 * 8 * 3,)).reshape(8, 8, 8, 3)
    np.testing.assert_array_equal(whole[t : t + 8, h : h + 8, w : w + 8], drawn)


def test_keys_of_another_generator_are_refused():
  with pytest.raises(AssertionError, match="rbg"):
    block_noise(jax.random.key(0, impl="rbg"), shape=(1, 1, 1, 3))
