"""The stages in order: independence of samples, entering and leaving anywhere."""

import gc
import math
import weakref

import jax
import numpy as np
import pytest

from ivid.sample import runner
from ivid.sample.keys import Sample
from ivid.sample.plan import OTHERS, Overrides, plan_stages
from ivid.sample.runner import batch_mesh, run_cascade
from ivid.spec.errors import UserError
from ivid.spec.sampling import ThresholdKind
from ivid.weights.cascades import CascadeFolder

A, B = Sample("a red ball", 1, 0), Sample("a green square", 1, 0)


def run(cascade, samples, *, start="", stop="", batch_size=1, first_input=None):
  """Clips by (stage, index)."""
  stages = plan_stages(cascade, start=start, stop=stop)
  found = run_cascade(cascade, stages, samples, batch_size=batch_size, first_input=first_input, quiet=True)
  return {(clip.stage.name, clip.index): clip for clip in found}


@pytest.fixture(scope="module")
def full(cascade):
  return run(cascade, [A, B])


def test_every_stage_yields_its_size(cascade, full):
  assert list(full) == [(name, n) for name in ("base", "tsr1", "ssr1") for n in (0, 1)]
  for (name, n), clip in full.items():
    assert clip.frames.shape == cascade.spec.stage(name).output.array and clip.frames.dtype == np.uint8
    assert (clip.index, clip.batch_size, clip.row) == (n, 1, 0)
    assert clip.frames.std() > 5


def test_a_clip_does_not_depend_on_its_company(cascade, full):
  swapped = run(cascade, [B, A, Sample(A.prompt, A.seed, 1)], batch_size=2, stop="tsr1")
  for name in ("base", "tsr1"):
    for mine, theirs in ((0, 1), (1, 0)):
      difference = full[name, mine].frames.astype(int) - swapped[name, theirs].frames
      assert np.abs(difference).max() <= 1  # a value within rounding of the border between two bytes
    assert np.abs(swapped[name, 2].frames.astype(int) - swapped[name, 1].frames).mean() > 2
  assert [swapped["base", n].batch_size for n in range(3)] == [2, 2, 1]


def test_stopping_early_gives_the_same_clips(cascade, full):
  part = run(cascade, [A], stop="tsr1")
  assert list(part) == [("base", 0), ("tsr1", 0)]
  np.testing.assert_array_equal(part["tsr1", 0].frames, full["tsr1", 0].frames)


def test_going_on_from_a_saved_clip_is_exact(cascade, full):
  part = run(cascade, [A], start="tsr1", first_input=full["base", 0].frames)
  for name in ("tsr1", "ssr1"):
    np.testing.assert_array_equal(part[name, 0].frames, full[name, 0].frames)


def test_the_text_encoder_is_gone_before_the_first_stage(cascade, full, monkeypatch):
  encoders, arrays, order = [], [], []
  load_text, load_stage = runner.load_text, CascadeFolder.load_stage

  def watched_text(self, stages=()):
    made = load_text(self, stages)
    embed = made.embed

    def watched(prompts):
      order.append(list(prompts))
      found = embed(prompts)
      arrays.extend(jax.tree.leaves(made._on_device))
      return found

    made.embed = watched
    encoders.append(weakref.ref(made))
    return made

  def watched_stage(self, name):
    gc.collect()
    assert encoders[0]() is None and arrays and all(array.is_deleted() for array in arrays)
    order.append(name)
    return load_stage(self, name)

  monkeypatch.setattr(runner, "load_text", watched_text)
  monkeypatch.setattr(CascadeFolder, "load_stage", watched_stage)
  clips = run(cascade, [A, B], stop="tsr1")
  assert order == [[A.prompt, B.prompt], "base", "tsr1"] and len(encoders) == 1
  np.testing.assert_array_equal(clips["base", 0].frames, full["base", 0].frames)


def test_batch_mesh_divides_the_batch():
  assert batch_mesh(1) is None and batch_mesh(3) is None
  assert batch_mesh(4).size == 4


def test_overrides_reach_the_stages(cascade):
  overrides = Overrides(
    steps={OTHERS: 7, "ssr1": 2}, sampler="dpmpp_2m", guidance={"base": (15, 1)}, threshold={"ssr1": ThresholdKind.DYNAMIC}, aug_snr=3
  )
  base, tsr1, ssr1 = plan_stages(cascade, overrides=overrides)
  assert [s.sampling.steps for s in (base, tsr1, ssr1)] == [7, 7, 2]
  assert (base.sampling.guidance.weight, base.sampling.guidance.low, tsr1.sampling.guidance.weight) == (15.0, 1.0, 1.0)
  assert [s.sampling.threshold.value for s in (base, tsr1, ssr1)] == ["static", "static", "dynamic"]
  assert {s.sampling.sampler.value for s in (base, tsr1, ssr1)} == {"dpmpp_2m"}
  assert tsr1.lowres.aug_snr == ssr1.lowres.aug_snr == 3.0


@pytest.mark.parametrize(
  "overrides, message",
  [
    (dict(steps=0), "steps=0: expected 1 or more"),
    (dict(steps=8.5), "steps=8.5: expected a whole number"),
    (dict(steps={"ssr": 4}), "no stage 'ssr' that runs takes it: did you mean 'ssr1'"),
    (dict(sampler="ddmi"), "unknown sampler 'ddmi': did you mean 'ddim'"),
    (dict(threshold="dynamik"), "unknown threshold 'dynamik': did you mean 'dynamic'"),
    (dict(guidance="strong"), "guidance=strong: expected a number"),
    (dict(guidance=math.nan), "guidance=nan: expected a number"),
    (dict(aug_snr={"base": 3}), "no stage 'base' that runs takes it: expected one of tsr1, ssr1"),
    (dict(aug_snr=-1), "aug_snr=-1: expected a positive power ratio"),
  ],
)
def test_wrong_overrides(cascade, overrides, message):
  with pytest.raises(UserError) as error:
    plan_stages(cascade, overrides=Overrides(**overrides))
  assert message in str(error.value) and "\n" not in str(error.value)


def test_wrong_ends(cascade):
  with pytest.raises(ValueError, match="unknown stage 'ssr9': did you mean 'ssr1'"):
    plan_stages(cascade, stop="ssr9")
  with pytest.raises(ValueError, match="stop_stage=base comes before start_stage=tsr1"):
    plan_stages(cascade, start="tsr1", stop="base")
