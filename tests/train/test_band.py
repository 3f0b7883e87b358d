"""The band of the gradient's norm: what leaves it, what comes back, and what only becomes smaller."""

import math

import numpy as np
import pytest

from ivid.train.band import LEAST, QUIET, WINDOW, Band


def left(norms):
  band = Band()
  for step, norm in enumerate(norms, 1):
    band.observe(step, norm)
  return band.left


NOISE = list(np.random.default_rng(0).lognormal(0.0, 0.5, 3000))


@pytest.mark.parametrize(
  ("norms", "step"),
  [
    (NOISE, None),
    ([1.0, 1e6] * (LEAST // 2 - 1), None),  # too few to know
    (NOISE + [1e3] * 3000, 3001),  # however long it stays there
    (NOISE + list(1.01 ** np.arange(2000)), 3248),  # slowly
    (NOISE + [1e3] * 5 + [1.0] * QUIET, None),
    (NOISE + [1e3] * 5 + [1.0] * (QUIET - 1) + [1e3], 3001),
    (NOISE + [1e3] * 5 + [1e-6] * 3000, 3001),  # what has diverged may have no gradient left
    (list(np.exp(-np.arange(2000) / 200)), None),  # training
    (NOISE + [math.inf], 3001),
    (NOISE + [math.nan], 3001),
  ],
)
def test_what_leaves_the_band(norms, step):
  assert left(norms) == step


def test_edge():
  band = Band()
  for step in range(1, LEAST):
    band.observe(step, 2.0)
  assert band.edge == math.inf
  band.observe(LEAST, 2.0)
  assert band.edge == 20.0
  for step in range(WINDOW):
    band.observe(step, 3.0)
  assert band.edge == 30.0
