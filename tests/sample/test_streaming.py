"""Streamed clips: the same frames as step by step on the whole clip, with no more than a few windows in memory."""

import numpy as np
import pytest

from ivid.media.clips import from_uint8, to_uint8
from ivid.sample import streaming
from ivid.sample.keys import Sample, sample_keys
from ivid.sample.stage_sampler import sample_stage
from ivid.sample.streaming import frames_between, is_streamed, stored, stream_stage
from ivid.sample.tiling import stage_tiling, stretched
from ivid.spec.errors import UserError
from ivid.spec.sampling import GuidanceSpec, SamplerKind, SamplingSpec
from ivid.stage import Stage
from tests.sample import tiny
from tests.sample.test_tiling import BLENDED, SSR, TSR

SAMPLERS = {SamplerKind.DDIM: BLENDED, SamplerKind.DPM_SOLVER_PP_2M: SSR, SamplerKind.ANCESTRAL: TSR}


def arguments(spec, sampler=SamplerKind.DDIM, *, steps=3):
  rng, frames = np.random.default_rng(0), spec.lowres.input.array
  return dict(
    keys=sample_keys([Sample("a red ball", 0, n) for n in range(2)], spec.name),
    text=rng.standard_normal((2, 1, 5, 16)).astype(np.float32),
    text_mask=np.ones((2, 1, 5), bool),
    sampling=SamplingSpec(steps=steps, sampler=sampler, guidance=GuidanceSpec(weight=1.0)),
  ), list(rng.integers(0, 256, (2, *frames), np.uint8))


@pytest.mark.parametrize("sampler", [SamplerKind.DDIM, *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(SAMPLERS)[1:])])
def test_streamed_equals_step_by_step(sampler, monkeypatch):
  spec = stretched(SAMPLERS[sampler], 15)
  tile = (8, 0, 80) if sampler is SamplerKind.DPM_SOLVER_PP_2M else (9, 0, 0)
  tiling, seen, held = stage_tiling(spec, tile), [], []
  assert len(tiling.slabs) > 2
  add = streaming._Level.add

  def watched(self, frames):
    add(self, frames)
    held.append(self.held.z.shape[1])

  monkeypatch.setattr(streaming._Level, "add", watched)
  monkeypatch.setattr(streaming, "STORED_BYTES", 0)
  options, small = arguments(spec, sampler)
  made = stream_stage(Stage(spec), tiny.random_params(spec, 1), small=small, tiling=tiling, progress=lambda *n: seen.append(n), **options)
  assert isinstance(made, np.memmap) and seen[-1] == (3 * tiling.count,) * 2 and len(seen) == 3 * tiling.count
  assert max(held) < 2 * tiling.window[0]
  want = sample_stage(Stage(spec), tiny.random_params(spec, 1), small=from_uint8(np.stack(small)), tiling=tiling, **options)
  assert np.abs(made.astype(int) - to_uint8(want)).max() <= 1 and made.std() > 5
  assert (made != to_uint8(want)).mean() < 1e-3


def test_what_is_streamed():
  long = stretched(SSR, 60)
  tiling = stage_tiling(long, (7, 0, 0))
  assert frames_between(long, tiling) == 2 * 32 * 7 > 60 and not is_streamed(long, tiling)
  assert is_streamed(stretched(SSR, 600), tiling) and not is_streamed(tiny.tiny_cascade("").stage("base"), tiling)


def test_no_space_for_the_frames(monkeypatch):
  with pytest.raises(UserError, match="has no 1.13e.06 GB for a clip's frames: .*; expected a shorter clip, or another folder in TMPDIR"):
    stored((1 << 25, 1 << 25))
  assert not isinstance(stored((2, 3)), np.memmap)
