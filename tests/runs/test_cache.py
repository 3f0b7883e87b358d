"""The persistent compilation cache: where it lies, and that a second process of a binary finds what the first compiled."""

import os
import pathlib
import subprocess
import sys

import pytest

from ivid.runs import cache

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import jax
from ivid.runs.cache import enable_compilation_cache
hits = []
jax.monitoring.register_event_listener(lambda event, **kwargs: hits.append(event) if event.endswith("/cache_hits") else None)
print(enable_compilation_cache())
print(float(jax.jit(lambda x: (x * 3.25).sum())(jax.numpy.arange(7.0))), len(hits))
"""


def run(**environment):
  kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT", "XDG_CACHE"))}
  done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=True)
  folder, result = done.stdout.splitlines()
  value, hits = result.split()
  assert float(value) == 68.25
  return folder, int(hits)


def test_on_by_default_in_the_users_cache_folder(tmp_path):
  folder, hits = run(HOME=str(tmp_path))
  assert pathlib.Path(folder).parent == tmp_path / ".cache" / "ivid" / "jax" and hits == 0
  assert list(pathlib.Path(folder).iterdir())
  assert run(HOME=str(tmp_path))[1] > 0


@pytest.mark.parametrize(
  ("environment", "inside"),
  [
    ({"JAX_COMPILATION_CACHE_DIR": "mine", "XDG_CACHE_HOME": "xdg"}, "mine"),
    ({"XDG_CACHE_HOME": "xdg"}, "xdg/ivid/jax"),
    ({}, "home/.cache/ivid/jax"),
  ],
)
def test_where_it_lies(environment, inside, tmp_path, monkeypatch):
  for name in (cache.VARIABLE, "XDG_CACHE_HOME"):
    monkeypatch.delenv(name, raising=False)
  for name, value in ({"HOME": "home"} | environment).items():
    monkeypatch.setenv(name, str(tmp_path / value))
  folder = cache.cache_folder()
  assert folder == tmp_path / inside or folder.parent == tmp_path / inside


def test_a_folder_that_cannot_be_made_costs_time_alone(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("in the way")
  monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
  assert cache.enable_compilation_cache() is None


def test_a_user_without_a_home(monkeypatch, tmp_path):
  """As where a container runs as a number that no user has."""
  import pwd

  from ivid.data.prepared import find_folder
  from ivid.media.copies import local_copy
  from ivid.spec.errors import UserError

  def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

  for name in ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR", cache.VARIABLE):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(pwd, "getpwuid", nobody)
  assert cache.enable_compilation_cache() is None
  with pytest.raises(UserError, match="~/.cache: there is no home folder, .*: expected XDG_CACHE_HOME, or data.cache for embeddings"):
    cache.user_cache()
  assert local_copy(tmp_path, "data.embeddings") == tmp_path  # what lies here needs no cache
  with pytest.raises(UserError, match="there is no home folder, .*: expected data.dir, or TFDS_DATA_DIR"):
    find_folder("tfds:clips", "")
  with pytest.raises(UserError, match="there is nothing|is not under data.dir"):
    find_folder("tfds:clips", str(tmp_path))
