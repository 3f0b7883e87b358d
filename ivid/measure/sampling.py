"""Sampling speed and memory of a cascade's stages, for `ivid bench sample`."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ivid.measure.dry_run import evaluation_flops
from ivid.media.clips import from_uint8, to_uint8
from ivid.parallel.memory import peak_bytes, reset_peak
from ivid.sample import meshes
from ivid.sample.cascades import load_text
from ivid.sample.keys import Sample, sample_keys
from ivid.sample.plan import plan_tiles
from ivid.sample.stage_sampler import sample_stage
from ivid.sample.tiling import Tiling, stage_tiling
from ivid.spec.stage import StageSpec
from ivid.stage import Stage, evaluations_per_step
from ivid.weights.cascades import CascadeFolder

PROMPT = "a large red circle moves left on a black background"


def bench_sampling(
  cascade: CascadeFolder,
  stages: Sequence[StageSpec],
  *,
  tile: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
  mesh: meshes.Meshes | None = None,
  seed: int = 0,
) -> Iterator[dict[str, Any]]:
  """Samples one clip through the stages, each from the clip of the previous stage; returns one row of figures per stage.

  `seconds` is the time that a user waits for the whole stage: reading weights, compiling (or reading the cache), and all steps. The seconds
  per step are the median time between the ends of two evaluations, times the number of tiles; GFLOP/s follow from it. They are None if
  there is only one evaluation, which is mostly compilation. Memory is the peak host memory of the process.

  Args: tile: as of ivid.sample.plan.Overrides; mesh: devices that share the clip (ivid.sample.meshes).

  Raises:
    UserError: before the first stage, if a tile or a mesh is impossible.
  """
  devices = meshes.open_mesh(mesh)
  cut = meshes.cuts_clips(meshes.mesh_spec(devices))
  tiles = plan_tiles(stages, tile, functools.partial(stage_tiling, cut=cut))
  if devices is not None:
    meshes.check_divides(devices, stages, batches=[1])
  return _rows(cascade, stages, {spec.name: stage_tiling(spec, tiles.get(spec.name, ()), cut=cut) for spec in stages}, devices, seed)


def _rows(
  cascade: CascadeFolder, stages: Sequence[StageSpec], tilings: dict[str, Tiling], mesh: Mesh | None, seed: int
) -> Iterator[dict[str, Any]]:
  encoder = load_text(cascade, tuple(spec.name for spec in stages))
  text, mask = encoder.embed([PROMPT])
  del encoder
  clip = None
  for spec in stages:
    reset_peak()
    started = time.perf_counter()
    ends: list[float] = []
    tiling = tilings[spec.name]
    made = sample_stage(
      Stage(spec),
      cascade.load_stage(spec.name),
      keys=sample_keys([Sample(PROMPT, seed, 0)], spec.name),
      text=text[:, None],
      text_mask=mask[:, None],
      small=None if spec.lowres is None else from_uint8(_entered(clip, spec)[None]),
      sampling=spec.sampling,
      tiling=tiling,
      progress=lambda *_, ends=ends: ends.append(time.perf_counter()),
      mesh=mesh,
    )
    clip = to_uint8(made)[0]
    del made
    seconds = time.perf_counter() - started
    step = tiling.count * statistics.median(np.diff(ends)) if len(ends) > 1 else None
    evaluations = evaluations_per_step(spec, spec.sampling)
    gflop = evaluations * evaluation_flops(Stage(spec)) / 1e9
    yield {
      "stage": spec.name,
      "output": str(spec.output),
      "tile": "x".join(map(str, tiling.window)) if tiling.count > 1 else "whole",
      "steps": spec.sampling.steps,
      "gflop_per_step": gflop,
      "overlap": tiling.count * math.prod(tiling.window) / math.prod(spec.output.array[:3]),
      "seconds_per_step": step,
      "seconds": seconds,
      "gflops": step and gflop / step,
      "peak_bytes": peak_bytes(),
    }


def format_header() -> str:
  return f"{'stage':6} {'output':>20} {'tile':>14} {'steps':>5} {'GFLOP/step':>10} {'s/step':>8} {'s':>8} {'GFLOP/s':>8} {'GB':>6}"


def format_row(row: dict[str, Any]) -> str:
  sizes = f"{row['stage']:6} {row['output']:>20} {row['tile']:>14} {row['steps']:>5} {row['gflop_per_step']:>10.1f}"
  step, rate = (f"{'-':>8}",) * 2 if row["gflops"] is None else (f"{row['seconds_per_step']:>8.2f}", f"{row['gflops']:>8.1f}")
  return f"{sizes} {step} {row['seconds']:>8.1f} {rate} {row['peak_bytes'] / 1e9:>6.2f}"


def _entered(clip: Any, spec: StageSpec) -> Any:
  """The clip of the previous stage; if there is none, because the bench starts in the middle, a grey clip of the right size."""
  return np.full(spec.lowres.input.array, 128, np.uint8) if clip is None else clip
