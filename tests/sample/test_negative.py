"""Negative prompts: what they change, what they leave as it was to the bit, and where they are refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ivid
from ivid.diffusion import guidance
from ivid.nets.inputs import Conditioning
from ivid.sample.keys import Sample, key_words
from ivid.sample.negative import check_negative
from ivid.spec.errors import UserError
from ivid.spec.sampling import GuidanceSpec, SamplingSpec, StudentSpec
from ivid.stage import Stage
from tests.sample import tiny

PROMPT, NEGATIVE = "a red ball", "a green square"
BASE, TSR1, SSR1 = tiny.tiny_cascade("").stages


@pytest.fixture
def opened(cascade, monkeypatch):
  monkeypatch.setattr("ivid.pipeline.enable_compilation_cache", lambda: None)  # the tests have their own
  return ivid.load(cascade.folder)


@pytest.mark.slow
def test_the_unconditional_evaluation_reads_it():
  stage, params, rng = Stage(BASE), tiny.random_params(BASE, 0), np.random.default_rng(0)
  text, other = (jnp.asarray(rng.normal(size=(2, 1, 5, tiny.TEXT.dim)), jnp.float32) for _ in range(2))
  mask = jnp.ones((2, 1, 5), bool)
  cond = Conditioning(text=text, text_mask=mask, is_video=jnp.ones(2, bool), fps=jnp.full(2, 2.0))
  z, logsnr = jnp.asarray(rng.normal(size=(2, *BASE.output.array)), jnp.float32), jnp.zeros(2)
  by_text = stage.denoise(params, z, logsnr, cond)
  for negative, x_uncond in (
    (None, stage.denoise(params, z, logsnr, cond.replace(text_mask=~mask))),
    ((other, mask), stage.denoise(params, z, logsnr, cond.replace(text=other))),
    ((other, ~mask), stage.denoise(params, z, logsnr, cond.replace(text_mask=~mask))),  # no text
    ((text, mask), by_text),
  ):
    want = guidance.guided(x_cond=by_text, x_uncond=x_uncond, w=2.0)
    have = stage.guided(params, z, logsnr, cond.replace(negative=negative), 2.0)
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


def test_a_clip_with_it_is_another_and_is_made_again(opened, tmp_path):
  plain, away = (opened.sample(PROMPT, seed=5, batch_size=1, negative_prompt=n)[0] for n in ("", NEGATIVE))
  assert np.abs(plain.frames.astype(int) - away.frames).mean() > 1
  assert plain.metadata["negative_prompt"] == "" and away.metadata["negative_prompt"] == NEGATIVE
  np.testing.assert_array_equal(opened.repeat(away.save(tmp_path / "away.png")).frames, away.frames)
  (one, _) = opened.sample([PROMPT, NEGATIVE], seed=5, batch_size=1, negative_prompt=NEGATIVE, stop="tsr1")
  assert np.abs(one.frames.astype(int) - opened.sample(PROMPT, seed=5, batch_size=1, stop="tsr1")[0].frames).mean() > 1


def test_older_metadata_say_no_negative_prompt(opened):
  (clip,) = opened.sample(PROMPT, seed=5, batch_size=1, stop="base")
  old = {key: value for key, value in clip.metadata.items() if key != "negative_prompt"} | {"format": 1}
  np.testing.assert_array_equal(opened.repeat(json.loads(json.dumps(old))).frames, clip.frames)


def test_keys_do_not_depend_on_it():
  np.testing.assert_array_equal(key_words(Sample(PROMPT, 1, 2, NEGATIVE), "base"), key_words(Sample(PROMPT, 1, 2), "base"))


def test_without_guidance_it_changes_nothing_and_that_is_said_once(opened):
  options = dict(seed=5, batch_size=1, stop="tsr1", guidance=0.0)
  with pytest.warns(
    UserWarning, match=r"^negative_prompt='a green square' changes nothing: no stage that runs \(base, tsr1\) has guidance$"
  ) as said:
    (away,) = opened.sample(PROMPT, negative_prompt=NEGATIVE, **options)
  assert len(said) == 1
  np.testing.assert_array_equal(away.frames, opened.sample(PROMPT, **options)[0].frames)


def test_students_cannot_read_it():
  def student(w, w_max=4.0):
    sampling = SamplingSpec(guidance=GuidanceSpec(weight=w))
    return dataclasses.replace(BASE, sampling=sampling, student=StudentSpec(teacher="a", w_max=w_max))

  with pytest.raises(
    UserError, match=r"stage base was distilled, and its guidance \(2\) is in its weights: expected a cascade with its teacher"
  ):
    check_negative([student(2.0), TSR1], NEGATIVE)
  assert check_negative([student(0.0, 0.0), TSR1], NEGATIVE) == ""  # tsr1's guidance reads it
  assert "changes nothing" in check_negative([student(0.0), SSR1], NEGATIVE)
  assert check_negative([student(2.0)], "") == ""


def test_what_compiles_without_one_is_what_compiled_before():
  """No argument more: None is no leaf of the conditioning."""
  cond = Conditioning(text=jnp.zeros((1, 1, 2, 4)), text_mask=jnp.ones((1, 1, 2), bool), is_video=None, fps=jnp.ones(1))
  assert len(jax.tree.leaves(cond)) == 3 and "negative" not in cond.network_inputs()
