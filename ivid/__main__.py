"""`ivid NAME args`: runs `main(argv)` of ivid/bin/NAME.py; user errors become one line.

A binary is a module of ivid/bin with `define_flags(values)`, which adds its absl flags, and `main(argv)`, which parses them;
argv is the program's name and everything that was typed after it.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import importlib
import os
import pathlib
import pkgutil
import platform
import select
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import ivid
from ivid import bin as binaries
from ivid.parallel.signals import EXIT_INTERRUPTED
from ivid.spec.errors import UsageError, UserError, nearest

HELP = ("help", "-h", "-help", "--help")
TRACEBACK = "IVID_TRACEBACK"  # environment: 1 shows the whole traceback of a user error
PLATFORMS = "JAX_PLATFORMS"  # environment: which devices JAX takes
TUNABLES = "GLIBC_TUNABLES"  # environment: glibc reads it when a process starts
HUGE_PAGES = "glibc.malloc.hugetlb=1"
KEEP_MEMORY = "glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"
ACCELERATORS = ("accel*", "vfio/[0-9]*", "nvidia[0-9]*")  # files in /dev, of TPUs and GPUs

EXIT_ERROR = 1  # a value was wrong
EXIT_USAGE = 2  # the command line was wrong
EXIT_PIPE = 141  # 128 + SIGPIPE
LONG = ("train", "distill", "evaluate", "pretrain_text", "pretrain_retrieval")  # commands that run the same programs again and again
GO_ON = ("train", "distill", "data", "pretrain_retrieval")  # commands that continue their work when they are called again

FULL = (errno.ENOSPC, errno.EDQUOT)


def entry() -> int:
  """The console script."""
  tune_malloc()
  if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in processes that shells start in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
  return main()


def tune_malloc() -> None:
  """Restarts this process with other settings of malloc on Linux, unless the user has made settings.

  On a CPU, XLA allocates a program's temporaries again at each run, and malloc returns them to the system in between. Clearing their pages
  takes up to half of the time. With KEEP_MEMORY, the process keeps what it has freed. This needs a single arena, for which compilers wait
  that work in several threads, and so would the many threads of an accelerator's host: other commands and hosts get large pages instead.
  """
  if sys.platform != "linux" or TUNABLES in os.environ or "glibc" not in platform.libc_ver()[0]:
    return
  on_cpu = os.environ.get(PLATFORMS) == "cpu" or not any(any(pathlib.Path("/dev").glob(name)) for name in ACCELERATORS)
  os.environ[TUNABLES] = KEEP_MEMORY if on_cpu and sys.argv[1:2] and sys.argv[1] in LONG else HUGE_PAGES
  sys.stdout.flush()
  with contextlib.suppress(OSError):  # if it cannot restart, it just takes longer
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def commands() -> dict[str, str]:
  """The first docstring line of each module in ivid/bin that defines `main`, by name; read, not imported."""
  found = {}
  for finder, name, _ in pkgutil.iter_modules(binaries.__path__):
    tree = ast.parse((pathlib.Path(finder.path) / f"{name}.py").read_text(encoding="utf-8"))  # pyright: ignore[reportAttributeAccessIssue]  the packages are folders, whose finders have a path
    if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
      found[name] = (ast.get_docstring(tree) or "").partition("\n")[0]
  return found


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command of `argv` (default: the command line) and returns its exit status."""
  args = list(sys.argv[1:] if argv is None else argv)
  known = commands()
  if not args or args[0] in HELP:
    print(_listing(known))
    return 0
  if args[0] == "--version":
    print(f"ivid {ivid.__version__}")
    return 0
  name, *rest = args
  if name not in known:
    return _fail("ivid", f"unknown command {name!r}: {nearest(name, known)}", EXIT_USAGE)
  try:
    status = _run(name, rest)
    sys.stdout.flush()  # here, where errors can be caught
    return status
  except BrokenPipeError:
    if not _is_unread(sys.stdout):
      raise
    return EXIT_PIPE
  except KeyboardInterrupt:
    again = f"; the same command goes on: {shlex.join(['ivid', *args])}" if name in GO_ON else ""
    return _fail(f"ivid {name}", f"interrupted{again}", EXIT_INTERRUPTED)
  except (UserError, OSError) as error:
    if os.environ.get(TRACEBACK) == "1" or not caused_by_user(error):
      raise
    return _fail(f"ivid {name}", f"error: {_one_line(error)}", EXIT_USAGE if isinstance(error, UsageError) else EXIT_ERROR)
  except (RuntimeError, AssertionError):  # JAX raises these for platforms that it does not find
    if os.environ.get(TRACEBACK) == "1" or not (missing := missing_platform()):
      raise
    return _fail(f"ivid {name}", f"error: {missing}", EXIT_ERROR)


def caused_by_user(error: UserError | OSError) -> bool:
  """Whether it is a UserError, a user's file that cannot be read or written, or a full disk. Our own faults keep their traceback."""
  if isinstance(error, UserError) or error.errno in FULL:
    return True
  if error.filename is None or isinstance(error.filename, int):
    return False
  return not pathlib.Path(os.fsdecode(error.filename)).is_relative_to(pathlib.Path(ivid.__file__).parent)


def missing_platform() -> str:
  """What is wrong with the platforms that JAX was told to use; empty if it has devices of one of them, or was told nothing."""
  told = os.environ.get(PLATFORMS, "")
  if not told or "jax" not in sys.modules:
    return ""
  try:
    sys.modules["jax"].devices()
  except (RuntimeError, AssertionError) as error:
    reason = f" ({_one_line(error)[:200]})" if str(error) else ""
    return f"{PLATFORMS}={told}: JAX finds no such devices{reason}: expected a platform of this machine such as cpu, or it unset"
  return ""


def _run(name: str, args: list[str]) -> int:
  """Imports the binary and calls it; it parses its own flags."""
  from absl import flags

  module = importlib.import_module(f"{binaries.__name__}.{name}")
  if hasattr(module, "define_flags") and any(arg in HELP[1:] for arg in args):
    values = flags.FlagValues()
    module.define_flags(values)
    print(f"{(module.__doc__ or '').strip()}\n\n{values.main_module_help() or values.get_help()}")
    return 0
  with _plain_warnings(name):
    status = module.main([f"ivid {name}", *args])
  return 0 if status is None else int(status)


@contextlib.contextmanager
def _plain_warnings(name: str) -> Iterator[None]:
  """Shows our warnings as one line each, without the place in the code; warnings of libraries stay as they are."""
  shown = warnings.showwarning

  def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    if category is UserWarning:
      print(f"ivid {name}: warning: {message}", file=sys.stderr)
    else:
      shown(message, category, *place, **more)

  warnings.showwarning = show
  try:
    yield
  finally:
    warnings.showwarning = shown


def _is_unread(stream: TextIO) -> bool:
  """Whether nobody reads the stream any more, as after `head`; what is left in it is then discarded."""
  poll = select.poll()
  poll.register(stream.fileno(), 0)
  if not any(event & select.POLLERR for _, event in poll.poll(0)):
    return False
  os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # otherwise Python complains when it ends
  return True


def _listing(known: dict[str, str]) -> str:
  width = max(map(len, known), default=0)
  lines = [f"  {name:{width}}  {text}" for name, text in known.items()]
  return "\n".join([f"{ivid.__doc__}", "", "ivid COMMAND [flags]; ivid COMMAND --help lists the flags.", "", *lines])


def _one_line(error: BaseException) -> str:
  """The error's message on one line; a file error as `name: what is wrong`."""
  if isinstance(error, OSError) and error.filename is not None:
    return f"{error.filename}: {error.strerror}"
  return " ".join(str(error).split()) or type(error).__name__


def _fail(program: str, message: str, status: int) -> int:
  print(f"{program}: {message}", file=sys.stderr)
  return status


if __name__ == "__main__":
  sys.exit(entry())
