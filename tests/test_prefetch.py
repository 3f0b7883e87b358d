"""Prefetched: the same items in the same order, made one ahead in another thread."""

import threading

import pytest

from ivid.prefetch import Prefetched


def test_same_items_and_the_next_one_is_made_meanwhile():
  made, threads, second = [], set(), threading.Event()

  def items():
    for n in range(4):
      threads.add(threading.current_thread())
      made.append(n)
      if n == 1:
        second.set()
      yield n

  with Prefetched(items()) as ahead:
    assert next(ahead) == 0 and second.wait(timeout=60)
    assert list(ahead) == [1, 2, 3]
  assert made == [0, 1, 2, 3] and threading.current_thread() not in threads and len(threads) == 1


def test_an_error_is_raised_where_the_item_is_asked_for():
  def items():
    yield 1
    raise ValueError("no second item")

  with Prefetched(items()) as ahead:
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="no second item"):
      next(ahead)


def test_leaving_stops_an_iterator_without_end():
  made = []

  def items():
    while True:
      made.append(len(made))
      yield made[-1]

  with Prefetched(items()) as ahead:
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
  assert 3 <= len(made) <= 4
