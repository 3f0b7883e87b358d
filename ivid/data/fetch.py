"""The bytes of many files in order, local, from a bucket or from the web; the next files are fetched while one is used."""

from __future__ import annotations

import collections
import queue
import threading
import time
from collections.abc import Iterable, Iterator

from ivid.data.remote import read_bytes
from ivid.spec.errors import UserError

AHEAD = 8  # number of remote files fetched at once, because each takes time to answer
TRIES, PAUSE = 3, 1.0  # for remote files; seconds before the second try, twice that before the third


def fetched(paths: Iterable[str], *, timeout: float) -> Iterator[tuple[bytes, str]]:
  """Yields (bytes, "") per file, or (b"", the reason). Raises UserError if an address needs a package that is not installed.

  Args:
    timeout: seconds after which a file is given up; the thread that waits for it is abandoned.
  """
  waiting: collections.deque[_Fetch] = collections.deque()
  for path in paths:
    waiting.append(_Fetch(path, timeout))
    while len(waiting) > AHEAD:
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()


class _Fetch:
  """One file. A remote file has its own thread, because nothing else can end the silence of a server."""

  def __init__(self, path: str, timeout: float):
    self._path, self._timeout = path, timeout
    self._answers: queue.SimpleQueue = queue.SimpleQueue()
    self._remote = "://" in path
    if self._remote:
      threading.Thread(target=self._answer, daemon=True).start()

  def result(self) -> tuple[bytes, str]:
    if not self._remote:
      return self._read()
    try:
      found = self._answers.get(timeout=self._timeout)
    except queue.Empty:
      return b"", f"did not arrive in {self._timeout:g} s"
    if isinstance(found, UserError):
      raise found
    return found

  def _answer(self) -> None:
    try:
      self._answers.put(self._read())
    except UserError as error:
      self._answers.put(error)

  def _read(self) -> tuple[bytes, str]:
    reason = ""
    for attempt in range(TRIES if self._remote else 1):
      if attempt:
        time.sleep(PAUSE * attempt)
      try:
        return read_bytes(self._path, seconds=self._timeout), ""
      except FileNotFoundError:
        return b"", "no such file"
      except TimeoutError as error:  # a web server's, for which another try would wait as long
        return b"", str(error)
      except UserError as error:
        if isinstance(error.__cause__, ImportError):
          raise
        return b"", f"an unknown kind of address: {error}"
      except Exception as error:  # each kind of server has errors of its own
        reason = f"cannot be read: {getattr(error, 'strerror', None) or error or type(error).__name__}"
    return b"", reason
