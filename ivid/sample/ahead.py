"""Prepares the programs of later stages in other threads while a stage runs: a compiler leaves cores idle that steps can use."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ivid.diffusion import samplers
from ivid.sample.keys import IMPL
from ivid.sample.programs import compiled_programs, compiled_sampling, compiled_stage, noise_function, sample_args
from ivid.sample.tiling import Tiling
from ivid.spec.stage import StageSpec
from ivid.stage import Stage
from ivid.video.noise import BLOCK

Ready = Callable[[], Any]
AT_ONCE = 2  # programs: a compiler works on one core for most of its time


class Ahead:
  """A context in which programs are prepared in their order. An error is left to whoever needs the program."""

  def __init__(self, programs: Iterator[Ready], *, at_once: int = AT_ONCE):
    self._programs, self._lock, self._stopped = programs, threading.Lock(), threading.Event()
    self._threads = [threading.Thread(target=self._run, name=f"programs ahead {n}", daemon=True) for n in range(at_once)]

  def __enter__(self) -> Ahead:
    for thread in self._threads:
      thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    """Waits for the programs that are being prepared, and starts no other."""
    self._stopped.set()
    for thread in self._threads:
      thread.join()

  def _run(self) -> None:
    try:
      while (ready := self._next()) is not None:
        ready()
    except Exception:  # noqa: BLE001 the caller meets the same one, with a traceback of its own
      self._stopped.set()

  def _next(self) -> Ready | None:
    """The next program; None when there is none, or after the end of the context."""
    with self._lock:  # threads share the iterator
      return None if self._stopped.is_set() else next(self._programs, None)


def programs_of(spec: StageSpec, tiling: Tiling, *, rows: int, max_tokens: int) -> Iterator[Ready]:
  """Functions that prepare the programs of sample_stage, in the order of its calls, for batches of so many rows on one device."""
  stage, shape = Stage(spec), spec.output.array
  compiled = compiled_programs(compiled_stage(spec), compiled_sampling(spec, spec.sampling))
  keys = jax.ShapeDtypeStruct((rows,), jax.random.key(0, impl=IMPL).dtype)
  tiled = tiling.count > 1

  def of(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))

  def noise(sizes: Sequence[int], *, aligned: bool = True) -> Ready:
    return functools.partial(noise_function(tuple(sizes), aligned).ready, keys, of(2, dtype=jnp.int32), of(3, dtype=jnp.int32))

  if spec.lowres is not None:
    small = spec.lowres.input.array
    noised = of(rows, *small), of(rows), of(rows, *small)
    yield noise(small)
    yield functools.partial((compiled.noised if tiled else compiled.grow).ready, *noised)
    if tiled:
      noisy = jax.eval_shape(stage.noised, *noised)
      yield functools.partial(compiled.window(tiling.window).ready, noisy, of(3, dtype=jnp.int32))
  yield noise((BLOCK[0], *shape[1:]) if tiled else shape)
  if tiled and samplers.adds_noise(spec.sampling.sampler):
    yield noise((*tiling.window, 3), aligned=False)
  args = sample_args(stage, spec.sampling, batch_size=rows, max_tokens=max_tokens, window=tiling.window if tiled else None)
  yield functools.partial((compiled.tile_step if tiled else compiled.step).ready, *args)
