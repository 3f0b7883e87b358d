"""Running the stages of a cascade in order: prompts in, clips out, one stage's weights in memory at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from ivid.media.clips import from_uint8, to_uint8
from ivid.parallel.mesh import make_mesh
from ivid.sample.bundle import Cascade
from ivid.sample.keys import Sample, sample_keys
from ivid.sample.progress import CascadeProgress
from ivid.sample.stage_sampler import place_params, sample_stage
from ivid.spec.run import MeshSpec
from ivid.spec.stage import StageSpec
from ivid.stage import Stage


@dataclasses.dataclass(frozen=True)
class Clip:
  """What a stage made of one sample.

  Attributes:
    stage: the stage, as it was sampled.
    index: the sample's place in the run's list.
    frames: [T, H, W, 3] uint8.
    batch_size, row: the batch it was computed in; a clip's last bits may depend on them, nothing else does.
  """

  stage: StageSpec
  index: int
  frames: np.ndarray
  batch_size: int
  row: int


def run_cascade(
  cascade: Cascade,
  stages: Sequence[StageSpec],
  samples: Sequence[Sample],
  *,
  batch_size: int = 0,
  first_input: np.ndarray | None = None,
  quiet: bool = False,
) -> Iterator[Clip]:
  """Yields every stage's clip of every sample, stage by stage.

  Between stages clips are rounded to bytes, as they would be in a file: going on later from a stage's clip saved without loss gives
  exactly what going on at once gives.

  Args:
    stages: consecutive stages of the cascade with the sampling to use (ivid.sample.plan).
    samples: clips to draw; each depends on its own fields alone.
    batch_size: samples computed together; 0: one a local device.
    first_input: [t, h, w, 3] uint8 that every sample starts from, where stages[0] is no base.
    quiet: no progress.

  Raises:
    ValueError: before anything is computed: untrained or foreign weights, another text encoder, an input of the wrong size.
  """
  for spec in stages:
    cascade.check(spec.name)
  size = batch_size or jax.local_device_count()
  batches = [range(start, min(start + size, len(samples))) for start in range(0, len(samples), size)]
  text, text_mask = _embed(cascade, tuple(spec.name for spec in stages), [sample.prompt for sample in samples])
  clips: list[np.ndarray | None] = [first_input] * len(samples)
  with CascadeProgress(len(stages), quiet=quiet) as progress:
    for spec in stages:
      progress.begin(spec.name, spec.sampling.steps * len(batches))
      stage = Stage(spec)
      params = cascade.load_stage(spec.name)
      for rows in batches:
        mesh = batch_mesh(len(rows))
        params = place_params(stage, params, mesh)
        small = None if spec.lowres is None else from_uint8(np.stack([clips[n] for n in rows]))
        made = to_uint8(
          sample_stage(
            stage,
            params,
            keys=sample_keys([samples[n] for n in rows], spec.name),
            text=text[rows.start : rows.stop, None],
            text_mask=text_mask[rows.start : rows.stop, None],
            small=small,
            sampling=spec.sampling,
            progress=progress.step,
            mesh=mesh,
          )
        )
        for row, n in enumerate(rows):
          clips[n] = made[row] if spec is not stages[-1] else None
          yield Clip(spec, n, made[row], len(rows), row)
      del params
      progress.end()


def batch_mesh(rows: int) -> Mesh | None:
  """A mesh over as many local devices as divide the batch, or None for one."""
  devices = jax.local_devices()
  count = math.gcd(rows, len(devices))
  return make_mesh(MeshSpec(), devices[:count]) if count > 1 else None


def _embed(cascade: Cascade, stages: tuple[str, ...], prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """Embeddings [N, L, D] and mask [N, L] of all prompts; the encoder is gone when this returns."""
  return cascade.load_text(stages).embed(prompts)
