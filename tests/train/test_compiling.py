"""Seconds of compilation, each counted once."""

import time

import jax
import jax.numpy as jnp
import pytest

from ivid.train.compiling import CompileClock, compile_clock


@pytest.mark.parametrize(
  ("spans", "seconds"),
  [
    ([(0, 1), (2, 3)], 2),
    ([(1, 2), (3, 4), (0, 5)], 5),  # traced inside another
    ([(0, 4), (1, 2)], 4),
    ([(0, 2), (1, 3)], 3),  # of two threads
    ([(5, 6), (0, 1), (2, 3)], 3),  # an end that is heard of late
    ([(5, 6), (0, 1), (0.5, 5.5)], 6),
  ],
)
def test_spans_count_once(spans, seconds):
  clock = CompileClock()
  for start, end in spans:
    clock.add(start, end)
  assert clock.seconds == seconds


def test_compiling_counts_and_running_does_not():
  clock = compile_clock()
  assert compile_clock() is clock
  step = jax.jit(lambda x: jnp.tanh(x @ x.T).sum() + 0.123)
  before, started = clock.seconds, time.time()
  step(jnp.ones((3, 3))).block_until_ready()
  took, once = time.time() - started, clock.seconds
  assert 0 < once - before <= took
  ones = jnp.ones((3, 3))
  between = clock.seconds
  step(ones).block_until_ready()
  assert clock.seconds == between
