"""Tiles: what they cover, and that cutting a step changes nothing."""

import dataclasses
import itertools
import re

import numpy as np
import pytest

from ivid.sample.keys import Sample, sample_keys
from ivid.sample.stage_sampler import sample_stage
from ivid.sample.tiling import AUTO_PIXELS, stage_tiling, stretched, tile_stage
from ivid.spec.clip import ClipShape
from ivid.spec.sampling import GuidanceSpec, SamplerKind, SamplingSpec, ThresholdKind
from ivid.spec.stage import DiffusionSpec, LevelSpec, LowresSpec, Norm, Prediction, StageSpec, Task, TimeFill, TimeMixing, UNetSpec
from ivid.stage import Stage
from tests.sample import tiny

ROUNDING = 1e-4
CONV = TimeMixing.CONVOLUTION
UNET = UNetSpec((LevelSpec(4, time=CONV, cross_attention=True), LevelSpec(4)), patch=2, embed_dim=8, head_dim=4, norm=Norm.RMS, text_dim=16)
SSR = StageSpec("ssr1", Task.SSR, ClipShape(11, 24, 104, 6.0), UNET, lowres=LowresSpec(input=ClipShape(11, 6, 26, 6.0)))
TSR = StageSpec(
  "tsr1",
  Task.TSR,
  ClipShape(18, 8, 102, 6.0),
  UNET,
  lowres=LowresSpec(input=ClipShape(6, 8, 102, 2.0), time_fill=TimeFill.BLANK),
)
BLENDED = dataclasses.replace(
  TSR,
  unet=dataclasses.replace(UNET, residual_std=0.1, scale_input=True),
  diffusion=DiffusionSpec(prediction=Prediction.X),
  lowres=dataclasses.replace(TSR.lowres, time_fill=TimeFill.LINEAR),
)
ASPECT = dataclasses.replace(SSR, output=ClipShape(9, 24, 104, 6.0), lowres=LowresSpec(input=ClipShape(9, 32, 48, 6.0)))
GLOBAL = dataclasses.replace(SSR, unet=dataclasses.replace(UNET, norm=Norm.GROUP, norm_groups=4))


def draw(spec, tile, *, sampler=SamplerKind.DDIM, batch=2):
  rng = np.random.default_rng(0)
  seen = []
  sampling = SamplingSpec(steps=3, sampler=sampler, guidance=GuidanceSpec(weight=1.0))
  clip = sample_stage(
    Stage(spec),
    tiny.random_params(spec, 1),
    keys=sample_keys([Sample("a red ball", 0, n) for n in range(batch)], spec.name),
    text=rng.standard_normal((batch, 1, 5, 16)).astype(np.float32),
    text_mask=np.ones((batch, 1, 5), bool),
    small=rng.uniform(-1, 1, (batch, *spec.lowres.input.array)).astype(np.float32),
    sampling=sampling,
    tiling=tile_stage(spec, tile),
    progress=lambda done, total: seen.append((done, total)),
  )
  count = tile_stage(spec, tile).count
  assert seen == [(n + 1, 3 * count) for n in range(3 * count)]
  return clip, count


@pytest.mark.parametrize(
  "spec, sampler, tiles",
  [
    (SSR, SamplerKind.DDIM, [(7, 0, 76), (6, 24, 84)]),
    (SSR, SamplerKind.DPM_SOLVER_PP_2M, [(7, 0, 76)]),
    (TSR, SamplerKind.ANCESTRAL, [(8, 0, 82), (9, 0, 0)]),
    (BLENDED, SamplerKind.DDIM, [(9, 0, 0)]),
    (ASPECT, SamplerKind.DDIM, [(0, 0, 80)]),
    (GLOBAL, SamplerKind.ANCESTRAL, [(7, 0, 0)]),  # norms of whole frames: cut in frames alone
  ],
)
def test_tiled_equals_untiled(spec, sampler, tiles):
  whole, one = draw(spec, (0, 0, 0), sampler=sampler)
  assert one == 1 and whole.std() > 0.1
  for tile in tiles:
    tiled, count = draw(spec, tile, sampler=sampler)
    assert count > 1
    np.testing.assert_allclose(tiled, whole, atol=ROUNDING)


@pytest.mark.parametrize("size, want", list(itertools.product((96, 104, 102), (76, 84, 90))))
def test_cores_cover_the_clip_once(size, want):
  spec = dataclasses.replace(SSR, output=ClipShape(23, 16, size, 6.0), lowres=LowresSpec(input=ClipShape(23, 4, size // 4, 6.0)))
  tiling = tile_stage(spec, (8, 0, want))
  covered = np.zeros(spec.output.array[:3], int)
  for slab in tiling.slabs:
    for tile in slab:
      assert tuple(stop - start for start, stop in tile.window) == tiling.window
      assert tile.origin[2] % spec.unet.stride == 0
      covered[tuple(slice(*span) for span in tile.core)] += 1
      assert all(w0 <= c0 < c1 <= w1 for (w0, w1), (c0, c1) in zip(tile.window, tile.core, strict=True))
  assert (covered == 1).all() and tiling.window[2] >= want and tiling.count > 4


def test_the_automatic_tile_bounds_the_memory():
  large = dataclasses.replace(SSR, output=ClipShape(128, 768, 1280, 24.0), lowres=LowresSpec(input=ClipShape(128, 192, 320, 24.0)))
  tiling = tile_stage(large)
  assert np.prod(tiling.window) <= AUTO_PIXELS and tiling.window[1:] == (768, 1280) and tiling.count > 1
  assert tile_stage(SSR).count == 1
  attends = dataclasses.replace(large, unet=dataclasses.replace(UNET, levels=(LevelSpec(4, time=TimeMixing.ATTENTION),)))
  assert tile_stage(attends).count == 1


@pytest.mark.parametrize(
  "spec, tile, message",
  [
    (SSR, (2, 0, 0), "tile frames=2 of stage ssr1 is all overlap: expected 5 or more"),
    (SSR, (0, 0, 40), "tile width=40 of stage ssr1 is all overlap: expected "),
    (SSR, (-1, 0, 0), "tile frames=-1: expected 1 or more, or 0 for all of 11"),
    (GLOBAL, (0, 0, 64), "tile width=64: stage ssr1 takes width whole: its network attends over space or normalises whole frames"),
  ],
)
def test_wrong_tiles(spec, tile, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    tile_stage(spec, tile)


def test_a_dynamic_threshold_is_refused():
  spec = dataclasses.replace(SSR, sampling=SamplingSpec(threshold=ThresholdKind.DYNAMIC))
  with pytest.raises(ValueError, match="a dynamic threshold looks at the whole clip"):
    stage_tiling(spec, (7, 0, 0))
  assert stage_tiling(spec).count == 1


def test_a_longer_clip_stretches_the_stage():
  longer = stretched(TSR, 10)
  assert (longer.lowres.input.frames, longer.output.frames, longer.output.fps) == (10, 30, 6.0)
  attends = dataclasses.replace(TSR, unet=dataclasses.replace(UNET, levels=(LevelSpec(4, time=TimeMixing.ATTENTION),)))
  with pytest.raises(ValueError, match="stage tsr1 attends over 6 input frames: expected as many or more, not 5"):
    stretched(attends, 5)
