"""SIGTERM and SIGINT ask a process to end. Work in parts checks for this between its parts; a second SIGINT ends the process at once."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator

NUMBERS = (signal.SIGTERM, signal.SIGINT)
EXIT_INTERRUPTED = 128 + signal.SIGINT  # as shells report it

_asked: list[int] = []  # signals that this process has received; they outlive the loop that one of many students runs in
_interrupts: list[int] = []  # those of them that are SIGINT, as they came


def asked() -> bool:
  """Whether a signal has asked this process to end."""
  return bool(_asked)


def end_if_asked() -> None:
  """Raises KeyboardInterrupt if a signal has asked this process to end. Call this between parts that are complete or absent."""
  if _asked:
    raise KeyboardInterrupt


def listen() -> None:
  """Notes signals from now on, also SIGINT in a process that a shell has started in the background with SIGINT ignored."""
  if threading.current_thread() is not threading.main_thread():
    return  # only the main thread may set handlers
  for number in NUMBERS:
    signal.signal(number, _note)
  _watch()


@contextlib.contextmanager
def listening() -> Iterator[None]:
  """A context in which signals are noted. Afterwards they have their former effect."""
  before = {number: signal.getsignal(number) for number in NUMBERS}
  listen()
  try:
    yield
  finally:
    _asked.clear()
    _interrupts.clear()
    if threading.current_thread() is threading.main_thread():
      for number, handler in before.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
  """A context that holds SIGINT back. Processes started in it never receive one: their parent decides what to do."""
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def command() -> str:
  """The command line after a colon if this process is an `ivid` command; otherwise empty."""
  program, *args = sys.argv
  if os.path.basename(program) == "ivid" or program.endswith(os.path.join("ivid", "__main__.py")):
    return f": {shlex.join(['ivid', *args])}"
  return ""


def _note(number: int, frame: object) -> None:
  del frame
  _asked.append(number)


def _watch() -> None:
  """Starts a thread that receives signals at once, because the main thread may be in the compiler for minutes."""
  global _pipe
  if _pipe is None:
    _pipe = os.pipe()
    os.set_blocking(_pipe[1], False)
    threading.Thread(target=_hear, args=(_pipe[0],), daemon=True, name="signals").start()
  signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)


def _hear(source: int) -> None:
  while numbers := os.read(source, 1):
    number = numbers[0]
    if number not in NUMBERS or signal.getsignal(number) is not _note:
      continue
    if number == signal.SIGINT:
      _interrupts.append(number)
    if len(_interrupts) > 1:
      os.write(2, b"SIGINT once more: ended at once\n")
      os._exit(EXIT_INTERRUPTED)
    more = "; once more ends it at once" * (number == signal.SIGINT)
    os.write(2, f"{signal.Signals(number).name}: saves and ends after the current step (minutes if it is compiling){more}\n".encode())


_pipe: tuple[int, int] | None = None
