"""Running the stages of a cascade in order: prompts in, clips out, one stage's weights in memory at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh

from ivid.parallel.mesh import make_mesh
from ivid.sample import meshes
from ivid.sample.ahead import Ahead, programs_of
from ivid.sample.cascades import load_text
from ivid.sample.given import Given
from ivid.sample.groups import batches_of
from ivid.sample.keys import Sample, sample_keys
from ivid.sample.longer import at_once, count_steps, cut_stage, sample_length
from ivid.sample.negative import reads_negative
from ivid.sample.progress import CascadeProgress
from ivid.sample.running import place_params
from ivid.sample.streaming import is_streamed
from ivid.sample.tiling import Tiling
from ivid.spec.run import MeshSpec
from ivid.spec.stage import StageSpec
from ivid.stage import Stage, evaluations_per_step
from ivid.weights.cascades import CascadeFolder


@dataclasses.dataclass(frozen=True)
class Clip:
  """What a stage made of one sample.

  Attributes:
    stage: the stage, as it was sampled.
    index: the sample's place in the run's list.
    frames: [T, H, W, 3] uint8.
    batch_size, row: the batch in which it was computed. Its last bits may depend on them, on the mesh and on the tiles, but nothing else.
  """

  stage: StageSpec
  index: int
  frames: np.ndarray
  batch_size: int
  row: int
  mesh: MeshSpec = meshes.ONE


def run_cascade(
  cascade: CascadeFolder,
  stages: Sequence[StageSpec],
  samples: Sequence[Sample],
  *,
  batch_size: int = 0,
  first_input: np.ndarray | None = None,
  tiles: Mapping[str, Sequence[int]] | None = None,
  given: Given | None = None,
  mesh: Mesh | None = None,
  quiet: bool = False,
) -> Iterator[Clip]:
  """Yields the clip of every sample from every stage, stage by stage.

  Between stages, clips are rounded to bytes, as they would be in a file. Continuing later from a losslessly saved clip of a stage thus
  gives exactly the same result as continuing at once.

  Args:
    stages: consecutive stages of the cascade with the sampling to use (ivid.sample.plan).
    samples: clips to draw; each depends only on its own fields. An empty prompt means no text.
    batch_size: samples computed together; 0: one per local device, or one per part into which the mesh cuts a batch.
    first_input: uint8 clips from which the samples start if stages[0] is not a base: [t, h, w, 3] for all, or [N, t, h, w, 3].
    tiles: per stage, what stage_tiling takes; stages not in it get the automatic choice.
    given: frames that are given to the base, the same for all samples; needed for clips of another length than in training.
    mesh: devices on which to sample (ivid.sample.meshes); None: as many local devices as divide a batch.
    quiet: whether to hide the progress.

  Raises:
    UserError: before anything is computed: untrained or foreign weights, another text encoder, an input of the wrong size, a tile that a
      stage cannot be cut in, a mesh that does not divide a stage's clips or a batch.
  """
  for spec in stages:
    cascade.check(spec.name)

  def cut(spec: StageSpec, rows: int) -> Tiling:
    return cut_stage(cascade, spec, (tiles or {}).get(spec.name, ()), clips=rows, cut=meshes.cuts_clips(meshes.mesh_spec(mesh)))

  batches = batches_of(len(samples), batch_size or (0 if mesh is None else meshes.mesh_rows(mesh)))
  if mesh is not None:
    meshes.check_divides(mesh, [at_once(cascade, spec) for spec in stages], batches=map(len, batches))
  tilings = {spec.name: cut(spec, len(batches[0])) for spec in stages}
  alone = mesh is None and batch_mesh(len(batches[0])) is None
  plain = given is None and not any(sample.negative for sample in samples)
  coming = [spec for spec in stages if alone and (plain or spec.lowres is not None) and not is_streamed(spec, tilings[spec.name])]
  told = dict(rows=len(batches[0]), max_tokens=cascade.spec.text.max_tokens)
  with Ahead(program for spec in coming for program in programs_of(spec, tilings[spec.name], **told)):
    text, text_mask, negative = _embed_samples(cascade, stages, samples)
    each = first_input is not None and first_input.ndim == 5
    clips: list[np.ndarray | None] = list(first_input) if each else [first_input] * len(samples)  # pyright: ignore[reportArgumentType]  a first input with a clip for each sample
    steps = {spec.name: count_steps(cascade, spec, given) for spec in stages}
    work = {spec.name: len(batches) * evaluation_work(spec, tilings[spec.name]) * steps[spec.name] for spec in stages}
    with CascadeProgress(work, quiet=quiet) as progress:
      for spec in stages:
        tiling = tilings[spec.name]
        progress.begin(spec.name, batches=len(batches), steps=steps[spec.name], tiles=tiling.count)
        stage = Stage(at_once(cascade, spec))
        params = cascade.load_stage(spec.name)
        for rows in batches:
          devices = batch_mesh(len(rows)) if mesh is None else meshes.several(mesh)
          params = place_params(stage, params, devices)
          small = None if spec.lowres is None else [clips[n] for n in rows]
          made = sample_length(
            stage,
            params,
            keys=sample_keys([samples[n] for n in rows], spec.name),
            frames=spec.output.frames,
            given=given,
            text=text[rows.start : rows.stop, None],
            text_mask=text_mask[rows.start : rows.stop, None],
            negative=negative and tuple(array[rows.start : rows.stop, None] for array in negative),
            small=small,  # pyright: ignore[reportArgumentType]  every stage before has made its clips
            sampling=spec.sampling,
            tiling=cut(spec, len(rows)),
            progress=progress.step,
            mesh=devices,
          )
          for row, n in enumerate(rows):
            clips[n] = made[row] if spec is not stages[-1] else None
            yield Clip(spec, n, made[row], len(rows), row, meshes.mesh_spec(devices))
        del params
        progress.end()


def evaluation_work(spec: StageSpec, tiling: Tiling) -> float:
  """A number roughly proportional to the arithmetic of one evaluation: positions times squared channels, summed over levels."""
  pixels = tiling.count * math.prod(tiling.window)
  guided = evaluations_per_step(spec, spec.sampling)
  levels = (level.blocks * level.residuals * level.channels**2 / 4**i for i, level in enumerate(spec.unet.levels))
  return guided * pixels / spec.unet.patch**2 * sum(levels)


def batch_mesh(rows: int) -> Mesh | None:
  """A mesh over as many local devices as divide the batch, or None for one."""
  devices = jax.local_devices()
  count = math.gcd(rows, len(devices))
  return make_mesh(MeshSpec(), devices[:count]) if count > 1 else None


def _embed_samples(
  cascade: CascadeFolder, stages: Sequence[StageSpec], samples: Sequence[Sample]
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
  """Embeddings and mask of the samples' prompts, and the same for their negative prompts if there are any that a stage reads."""
  names, prompts, negatives = tuple(spec.name for spec in stages), [s.prompt for s in samples], [s.negative for s in samples]
  if not any(negatives) or not any(map(reads_negative, stages)):
    return *_embed(cascade, names, prompts), None
  text, mask = _embed(cascade, names, prompts + negatives)
  n = len(samples)
  return text[:n], mask[:n], (text[n:], mask[n:])


def _embed(cascade: CascadeFolder, stages: tuple[str, ...], prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """Embeddings [N, L, D] and mask [N, L] of all prompts; empty prompts have no text. The encoder is released before this returns."""
  encoder = load_text(cascade, stages)
  said = [bool(prompt) for prompt in prompts]
  if not any(said):
    shape = (len(prompts), encoder.spec.max_tokens)
    return np.zeros((*shape, encoder.spec.dim), ml_dtypes.bfloat16), np.zeros(shape, bool)
  text, mask = encoder.embed([prompt or next(filter(None, prompts)) for prompt in prompts])
  encoder.release()  # T5-XXL and the first stage need not fit into memory together
  return text, mask & np.array(said)[:, None]
