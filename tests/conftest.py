"""Set before jax is imported: CPU with 8 virtual devices, and compiled programs kept between runs of the tests."""

import hashlib
import os
import pathlib
import platform

import pytest

from tests.compiling import xla_flags

DEVICES = 8


def _machine() -> str:
  """Names this machine's instruction set: a program compiled for another one must not be loaded here."""
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  flags = cpuinfo.read_text().partition("\n\n")[0] if cpuinfo.exists() else platform.processor()
  flags = "\n".join(line for line in flags.splitlines() if line.startswith(("model name", "flags", "Features")))
  return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:12]}"


def _cache_folder() -> pathlib.Path:
  home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
  return home / "ivid-tests" / _machine()


os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = xla_flags(DEVICES, os.environ.get("XLA_FLAGS", ""))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache_folder()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(autouse=True, scope="session")
def programs_of_jax_alone():
  """JAX's cache serves equal programs of all tests; ivid's own is for tests/sample/test_kept.py and for commands."""
  from ivid.sample import kept

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(kept, "_path", lambda made_from: None)
    yield
