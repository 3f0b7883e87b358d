"""Programs that are kept on disk and made ready ahead: what they are found by, and what a damaged or foreign file does."""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from ivid.config import load_run
from ivid.programs import Program
from ivid.sample import kept
from ivid.sample.ahead import Ahead
from ivid.sample.kept import KeptProgram

PATH = kept._path  # before tests/conftest.py takes its place
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """An empty folder for kept programs, and a count of what is compiled."""
  monkeypatch.setattr(kept, "_path", PATH)
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  compilation_cache.reset_cache()
  yield tmp_path / "programs"
  jax.config.update("jax_compilation_cache_dir", before)
  compilation_cache.reset_cache()


def counted(fn, compiled):
  """A program of `fn` that counts how often it is traced."""

  def traced(*args):
    compiled.append(fn)
    return fn(*args)

  return Program("counted", traced)


def test_a_program_is_compiled_once_for_all_processes(folder):
  compiled = []
  for _ in range(2):  # as in a process of its own: nothing is remembered in memory
    program = KeptProgram(counted(lambda x: 2.0 * x, compiled), "double")
    np.testing.assert_array_equal(program(ROWS), 2.0 * ROWS)
    np.testing.assert_array_equal(program(ROWS + 1.0), 2.0 * (ROWS + 1.0))
  assert len(compiled) == 1 and len(list(folder.iterdir())) == 1
  program(ROWS[:1])  # another shape
  KeptProgram(counted(lambda x: 3.0 * x, compiled), "treble")(ROWS)  # made from something else
  assert len(compiled) == 3 and len(list(folder.iterdir())) == 3


def test_what_jax_has_in_its_own_cache_is_kept_whole_too(folder):
  """Read from there and serialised once more, a program would lack functions."""

  def many(x):
    for n in range(8):
      x = jnp.sqrt(jnp.abs(x) + n) / jnp.sum(x, -1, keepdims=True)
      x = jnp.concatenate([x, x + 1.0])[: x.shape[0]] @ jnp.ones((x.shape[1], x.shape[1]))
    return x

  rows = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
  before, least = jax.config.jax_enable_compilation_cache, jax.config.jax_persistent_cache_min_compile_time_secs
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  want = jax.jit(many)(rows)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
  assert list(folder.parent.glob("*-cache")), "JAX has not kept it"
  for _ in range(2):
    np.testing.assert_array_equal(KeptProgram(Program("many", many), "many")(rows), want)
  assert jax.config.jax_enable_compilation_cache == before


def test_a_cache_of_jax_that_is_off_stays_off(folder):
  before = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  try:
    KeptProgram(Program("double", lambda x: 2.0 * x), "double")(ROWS)
    assert not jax.config.jax_enable_compilation_cache
  finally:
    jax.config.update("jax_enable_compilation_cache", before)


def test_a_result_like_an_argument_and_keys(folder):
  def drawn(state, key):
    return {name: value + jax.random.normal(key, value.shape) for name, value in state.items()}

  key, state = jax.random.key(3), {"a": ROWS, "b": ROWS[0]}
  first, second = (KeptProgram(Program("drawn", drawn), "drawn", like=0)(state, key) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, first, second)
  jax.tree.map(np.testing.assert_array_equal, first, jax.jit(drawn)(state, key))


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:50] + bytes([b[50] ^ 1]) + b[51:]])
def test_a_damaged_file_is_made_again(folder, damage):
  compiled = []
  KeptProgram(counted(lambda x: 2.0 * x, compiled), "double")(ROWS)
  (path,) = folder.iterdir()
  whole = path.read_bytes()
  path.write_bytes(damage(whole))
  np.testing.assert_array_equal(KeptProgram(counted(lambda x: 2.0 * x, compiled), "double")(ROWS), 2.0 * ROWS)
  assert len(compiled) == 2 and [p.name for p in folder.iterdir()] == [path.name]
  KeptProgram(counted(lambda x: 2.0 * x, compiled), "double")(ROWS)
  assert len(compiled) == 2


def test_another_machine_or_source_finds_none(folder, monkeypatch):
  compiled = []
  KeptProgram(counted(lambda x: 2.0 * x, compiled), "double")(ROWS)
  monkeypatch.setattr(kept, "_machine", lambda: "another")
  KeptProgram(counted(lambda x: 2.0 * x, compiled), "double")(ROWS)
  assert len(compiled) == 2


def test_without_a_folder_it_only_runs(folder):
  folder.write_text("in the way")
  compiled = []
  np.testing.assert_array_equal(KeptProgram(counted(lambda x: 2.0 * x, compiled), "double")(ROWS), 2.0 * ROWS)
  jax.config.update("jax_compilation_cache_dir", None)
  np.testing.assert_array_equal(KeptProgram(counted(lambda x: 2.0 * x, compiled), "double")(ROWS), 2.0 * ROWS)
  assert len(compiled) == 2


def test_old_ones_go(folder, monkeypatch):
  monkeypatch.setattr(kept, "MOST_KEPT", 2)
  for n in range(4):
    KeptProgram(Program("times", lambda x, n=n: n * x), str(n))(ROWS)
  assert len(list(folder.iterdir())) == 2


def test_ahead_stops_where_it_is_and_leaves_errors_to_others():
  made, first, go = [], threading.Event(), threading.Event()

  def wait():
    first.set()
    assert go.wait(timeout=60)
    made.append("first")

  with Ahead(iter([wait, lambda: made.append("second")]), at_once=1) as ahead:
    assert first.wait(timeout=60)
    ahead._stopped.set()
    go.set()
  assert made == ["first"]
  with Ahead(iter([lambda: 1 / 0, lambda: made.append("never")]), at_once=1):
    pass
  assert made == ["first"]


def test_two_programs_are_made_at_a_time_and_each_once():
  made, together = [], threading.Barrier(2, timeout=60)

  def program(n):
    def ready():
      if n < 2:
        together.wait()  # only passes if another thread waits here, too
      made.append(n)

    return ready

  with Ahead(map(program, range(6))) as ahead:
    for thread in ahead._threads:
      thread.join(timeout=60)
  assert sorted(made) == list(range(6)) and not together.broken


def test_what_is_made_ahead_is_what_sampling_asks_for(folder):
  """Every program of a run was ready: none is compiled after those that were made ahead."""
  from ivid.sample.ahead import programs_of
  from ivid.sample.keys import Sample, sample_keys
  from ivid.sample.programs import compiled_programs, noise_function
  from ivid.sample.stage_sampler import sample_stage
  from ivid.sample.tiling import stretched, tile_stage
  from ivid.spec.sampling import SamplerKind
  from ivid.stage import Stage, unbox

  cascade = load_run("tiny:base").cascade
  for name, sampler, tile in (("base", "ddim", ()), ("ssr1", "ancestral", (12, 0, 0))):
    spec = cascade.stage(name)
    sampling = dataclasses.replace(spec.sampling, sampler=SamplerKind(sampler), steps=2)
    spec = stretched(spec, 16) if tile else spec  # longer than a window and its halo
    spec, tokens = dataclasses.replace(spec, sampling=sampling), 5
    compiled_programs.cache_clear()
    noise_function.cache_clear()
    tiling = tile_stage(spec, tile)
    assert (tiling.count > 1) == bool(tile)
    for ready in programs_of(spec, tiling, rows=2, max_tokens=tokens):
      ready()
    files = len(list(folder.iterdir()))
    params = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), unbox(Stage(spec).abstract_params()))
    sample_stage(
      Stage(spec),
      params,
      keys=sample_keys([Sample("a ball", seed, 0) for seed in range(2)], name),
      text=np.zeros((2, 1, tokens, spec.unet.text_dim), jnp.bfloat16),
      text_mask=np.ones((2, 1, tokens), bool),
      small=None if spec.lowres is None else np.zeros((2, *spec.lowres.input.array), np.float32),
      sampling=sampling,
      tiling=tiling,
    )
    assert len(list(folder.iterdir())) == files, name
