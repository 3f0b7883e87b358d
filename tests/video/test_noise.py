"""Tiles of noise equal the same place of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.programs import Program
from ivid.video.noise import block_noise

WHOLE = (10, 20, 24, 3)


@pytest.fixture(scope="module")
def whole():
  return np.asarray(block_noise(jax.random.key(3), shape=WHOLE))


@pytest.mark.parametrize(
  "origin,shape", [((0, 0, 0), (4, 8, 8, 3)), ((8, 8, 16), (2, 8, 8, 3)), ((3, 5, 7), (6, 11, 10, 3)), ((9, 19, 23), (1, 1, 1, 3))]
)
def test_tile_is_a_slice_of_the_whole(whole, origin, shape):
  want = whole[tuple(slice(o, o + n) for o, n in zip(origin, shape[:3], strict=True))]
  np.testing.assert_array_equal(block_noise(jax.random.key(3), shape=shape, origin=origin), want)


def test_one_program_serves_every_origin(whole):
  shape = (3, 9, 10, 3)
  tile = Program("noise", lambda key, origin: block_noise(key, shape=shape, origin=tuple(origin))).jit()
  for t, h, w in [(0, 0, 0), (7, 7, 7), (6, 11, 14)]:
    np.testing.assert_array_equal(tile(jax.random.key(3), jnp.array([t, h, w])), whole[t : t + 3, h : h + 9, w : w + 10])
  assert tile._cache_size() == 1


def test_is_standard_normal_and_blocks_differ(whole):
  noise = np.asarray(block_noise(jax.random.key(0), shape=(16, 64, 64, 3)))
  assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
  blocks = noise.reshape(2, 8, 8, 8, 8, 8, 3).transpose(0, 2, 4, 1, 3, 5, 6).reshape(128, -1)
  off_diagonal = np.corrcoef(blocks) - np.eye(128)
  assert np.abs(off_diagonal).max() < 0.2
  assert not np.array_equal(whole, block_noise(jax.random.key(4), shape=WHOLE))
