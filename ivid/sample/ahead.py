"""Prepares the programs of later stages in another thread while a stage runs: a compiler leaves cores idle that steps can use."""

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


class Ahead:
  """A context in which programs are prepared in their order. An error is left to whoever needs the program."""

  def __init__(self, programs: Iterator[Ready]):
    self._programs, self._stopped = programs, threading.Event()
    self._thread = threading.Thread(target=self._run, name="programs ahead", daemon=True)

  def __enter__(self) -> Ahead:
    self._thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    """Waits for the program that is being prepared, and starts no other."""
    self._stopped.set()
    self._thread.join()

  def _run(self) -> None:
    try:
      for ready in self._programs:
        if self._stopped.is_set():
          return
        ready()
    except Exception:  # noqa: BLE001 the caller meets the same one, with a traceback of its own
      return


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
