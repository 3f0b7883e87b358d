"""Compiled programs that are kept on disk.

JAX's own cache is only asked after a program has been traced and lowered, which takes 1.5 s of one core per stage of a cascade. Here, a
program is found by what it was made from.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
import pickle
import threading
import zlib
from typing import Any

import jax
import jaxlib
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from ivid.media.files import write_whole
from ivid.programs import Program
from ivid.spec.errors import UserError

SUFFIX = ".program"
MOST_KEPT = 256  # number of files; the oldest are removed, as every change of this package's source makes new ones


class KeptProgram:
  """A Program as a function to call. It is compiled once per kind of arguments, and read from disk if it was compiled before.

  This does not work for programs with a mesh. Several threads may call it.

  Args:
    made_from: text that contains what the function depends on besides this package's source.
    like: position of the argument with the same structure as the result, if the result is not a single array.
  """

  def __init__(self, program: Program, made_from: str, *, like: int | None = None):
    assert program.mesh is None, program.name
    self._program, self._made_from, self._like = program, made_from, like
    self._ready: dict[Any, jax.stages.Compiled] = {}
    self._lock = threading.Lock()

  def __call__(self, *args: Any) -> Any:
    return self.ready(*args)(*args)

  def ready(self, *args: Any) -> jax.stages.Compiled:
    """The program for arguments of these shapes and dtypes, which may be abstract (jax.ShapeDtypeStruct)."""
    leaves, tree = jax.tree.flatten(args)
    cut = tuple(str(leaf.sharding) if _on_several(leaf) else "" for leaf in leaves)
    kind = tree, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves), cut
    with self._lock:  # a second thread waits instead of compiling it again
      if kind not in self._ready:
        self._ready[kind] = self._load_or_compile(args, repr(kind), keep=not any(cut))
      return self._ready[kind]

  def _load_or_compile(self, args: tuple[Any, ...], kind: str, *, keep: bool) -> jax.stages.Compiled:
    path = keep and _path("\n".join((self._program.name, self._made_from, kind, str(self._program.donate))))
    if path and (found := self._load(path, args)) is not None:
      return found
    lowered = self._program.jit().lower(*args)
    if not path:
      return lowered.compile()
    with _JAX_CACHE_OFF:
      compiled = lowered.compile()
    _save(path, compiled)
    return compiled

  def _load(self, path: pathlib.Path, args: tuple[Any, ...]) -> jax.stages.Compiled | None:
    """The kept program; None if there is none or its file is damaged, so that it is made again."""
    try:
      stored = path.read_bytes()
    except OSError:
      return None
    payload = stored[4:]
    if zlib.crc32(payload).to_bytes(4, "big") != stored[:4]:
      return None
    trees = jax.tree.structure((args, {})), jax.tree.structure(0 if self._like is None else args[self._like])
    try:
      return serialize_executable.deserialize_and_load(payload, *trees, execution_devices=jax.local_devices()[:1])
    except (pickle.UnpicklingError, AttributeError, ImportError, TypeError, ValueError, jax.errors.JaxRuntimeError):
      return None


class _JaxCacheOff:
  """A context in which JAX keeps no compiled programs of its own. What it has read from its cache cannot be serialised again: the program
  would lack functions when it runs (XLA's for the CPU, as of JAX 0.10). Threads share it, as it is off for all of them.
  """

  def __init__(self):
    self._lock, self._inside, self._before = threading.Lock(), 0, True

  def __enter__(self) -> None:
    with self._lock:
      if not self._inside:
        self._before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]  jax makes its options when it starts
        self._turn(False)
      self._inside += 1

  def __exit__(self, *_: object) -> None:
    with self._lock:
      self._inside -= 1
      if not self._inside:
        self._turn(self._before)

  @staticmethod
  def _turn(on: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", on)
    compilation_cache.reset_cache()  # the cache remembers whether it is on


_JAX_CACHE_OFF = _JaxCacheOff()


def _on_several(leaf: Any) -> bool:
  """Whether any argument lies on more than one device."""
  return isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1


def _save(path: pathlib.Path, compiled: jax.stages.Compiled) -> None:
  """Keeps the program if its kind can be kept and the folder is writable. Otherwise only time is lost."""
  try:
    payload, _, _ = serialize_executable.serialize(compiled)
  except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError):
    return
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, zlib.crc32(payload).to_bytes(4, "big") + payload)
    by_age = sorted(path.parent.glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime)
    for old in by_age[:-MOST_KEPT]:
      old.unlink(missing_ok=True)
  except (OSError, UserError):
    return


def _path(made_from: str) -> pathlib.Path | None:
  """A file in the folder of JAX's own cache; None if there is no such folder."""
  folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]  jax makes its options when it starts
  if not folder:
    return None
  return pathlib.Path(folder) / "programs" / (hashlib.sha256(f"{_machine()}\n{made_from}".encode()).hexdigest()[:32] + SUFFIX)


@functools.cache
def _machine() -> str:
  """Everything on which a compiled program depends besides its function: this package's source, the compiler, options and device."""
  source = hashlib.sha256()
  root = pathlib.Path(__file__).parents[1]
  for path in sorted(root.rglob("*.py")):
    source.update(path.read_bytes())
  device = jax.local_devices()[0]
  threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  options = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(("XLA_", "LIBTPU_"))]
  config = [jax.config.jax_default_matmul_precision, jax.config.jax_enable_x64, jax.config.jax_threefry_partitionable]  # pyright: ignore[reportAttributeAccessIssue]  jax makes its options when it starts
  where = [device.platform, device.device_kind, device.id, jax.local_device_count(), threads]
  return repr([source.hexdigest(), jax.__version__, jaxlib.__version__, device.client.platform_version, where, options, config])
