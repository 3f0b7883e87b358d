"""JAX's persistent compilation cache in the user's cache folder, so that a second run starts quickly."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform

from ivid.media.copies import user_cache
from ivid.spec.errors import UserError

VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def cache_folder() -> pathlib.Path:
  """$JAX_COMPILATION_CACHE_DIR, or ~/.cache/ivid/jax/MACHINE: a program compiled for other CPU features must not be loaded here."""
  given = os.environ.get(VARIABLE)
  if given:
    return pathlib.Path(given)
  return user_cache() / "jax" / _machine()


def enable_compilation_cache() -> pathlib.Path | None:
  """Turns the cache on and returns its folder; None if it cannot be written, in which case compilation just takes longer."""
  import jax

  try:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
  except (UserError, OSError):
    return None
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  return folder


def _machine() -> str:
  """Names the instruction set of this machine's processor."""
  path = pathlib.Path("/proc/cpuinfo")
  text = path.read_text(errors="replace").partition("\n\n")[0] if path.exists() else platform.processor()
  lines = [line for line in text.splitlines() if line.startswith(("model name", "flags", "Features"))] or [text]
  return f"{platform.machine()}-{hashlib.sha256(' '.join(lines).encode()).hexdigest()[:12]}"
