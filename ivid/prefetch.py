"""The next item of an iterator is made in another thread while the caller works on this one."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetched(Generic[T]):
  """A context and an iterator over the same items. An error in an item is raised where the item is asked for.

  Leaving the context waits for the item that is being made, and drops it.
  """

  def __init__(self, items: Iterator[T], name: str = "prefetched"):
    self._items = items
    self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

  def __enter__(self) -> Prefetched[T]:
    self._next = self._pool.submit(next, self._items)
    return self

  def __iter__(self) -> Iterator[T]:
    return self

  def __next__(self) -> T:
    item = self._next.result()
    self._next = self._pool.submit(next, self._items)
    return item

  def __exit__(self, *_: object) -> None:
    self._next.cancel()
    self._pool.shutdown(wait=True)
