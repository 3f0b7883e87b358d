"""Tiles of noise equal the same place of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.programs import Program
from ivid.video.noise import block_noise

WHOLE = (10, 20, 24, 3)


PLACES = [((0, 0, 0), (4, 8, 8, 3)), ((3, 5, 7), (6, 11, 10, 3)), ((9, 19, 23), (1, 1, 1, 3))]


def _noise(shape, origin=(0, 0, 0), seed=3):
  return Program("noise", lambda key: block_noise(key, shape=shape, origin=origin)).jit()(jax.random.key(seed))


@pytest.fixture(scope="module")
def whole():
  return np.asarray(_noise(WHOLE))


@pytest.mark.parametrize("origin,shape", PLACES)
def test_tile_is_a_slice_of_the_whole(whole, origin, shape):
  want = whole[tuple(slice(o, o + n) for o, n in zip(origin, shape[:3], strict=True))]
  np.testing.assert_array_equal(_noise(shape, origin), want)


def test_one_program_serves_every_origin(whole):
  shape = (3, 9, 10, 3)
  tile = Program("noise", lambda key, origin: block_noise(key, shape=shape, origin=tuple(origin))).jit()
  for t, h, w in [(0, 0, 0), (7, 7, 7), (6, 11, 14)]:
    np.testing.assert_array_equal(tile(jax.random.key(3), jnp.array([t, h, w])), whole[t : t + 3, h : h + 9, w : w + 10])
  assert tile._cache_size() == 1


def test_is_standard_normal_and_blocks_differ():
  noise = np.asarray(_noise((16, 64, 64, 3), seed=0))
  assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
  blocks = noise.reshape(2, 8, 8, 8, 8, 8, 3).transpose(0, 2, 4, 1, 3, 5, 6).reshape(128, -1)
  off_diagonal = np.corrcoef(blocks) - np.eye(128)
  assert np.abs(off_diagonal).max() < 0.2
  assert not np.array_equal(noise[:8, :16, :24], np.asarray(_noise((16, 64, 64, 3), seed=1))[:8, :16, :24])
