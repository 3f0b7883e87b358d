"""Which fields make two stages different functions."""

import dataclasses

from ivid.config import load_run
from ivid.spec.compare import changes, stage_difference
from ivid.spec.sampling import SamplingSpec

SSR1 = load_run("nano:ssr1").cascade.stage("ssr1")


def test_equal():
  assert stage_difference(SSR1, SSR1) == ""


def test_sampling_defaults_do_not_count():
  other = dataclasses.replace(SSR1, sampling=SamplingSpec(steps=3), lowres=dataclasses.replace(SSR1.lowres, aug_snr=3.0))
  assert stage_difference(SSR1, other) == ""


def test_how_a_level_is_run_does_not_count():
  levels = tuple(dataclasses.replace(level, remat=True, saved=("conv",), unroll=2) for level in SSR1.unet.levels)
  other = dataclasses.replace(SSR1, unet=dataclasses.replace(SSR1.unet, levels=levels))
  assert stage_difference(SSR1, other) == ""


def test_the_activations_dtype_does_not_count_but_the_weights_does():
  rough = dataclasses.replace(SSR1, unet=dataclasses.replace(SSR1.unet, dtype="bfloat16"))
  assert stage_difference(SSR1, rough) == "" == stage_difference(rough, SSR1)
  small = dataclasses.replace(SSR1, unet=dataclasses.replace(SSR1.unet, param_dtype="bfloat16"))
  assert stage_difference(small, SSR1) == "unet.param_dtype='bfloat16', expected 'float32'"


def test_first_field_with_both_values():
  other = dataclasses.replace(SSR1, unet=dataclasses.replace(SSR1.unet, head_dim=8))
  assert stage_difference(other, SSR1) == "unet.head_dim=8, expected 16"


def test_levels_by_number():
  levels = (dataclasses.replace(SSR1.unet.levels[0], channels=72), *SSR1.unet.levels[1:])
  other = dataclasses.replace(SSR1, unet=dataclasses.replace(SSR1.unet, levels=levels))
  assert stage_difference(other, SSR1) == f"unet.levels.0.channels=72, expected {SSR1.unet.levels[0].channels}"


def test_text_encoder_counts_unless_told():
  other = dataclasses.replace(SSR1, text_encoder="abc")
  assert stage_difference(other, SSR1) == "text_encoder='abc', expected ''"
  assert stage_difference(other, SSR1, text_encoder=False) == ""


def test_all_changes_of_a_run():
  run = load_run("tiny:base")
  other = load_run("tiny:base", ["train.batch_size=24", "train.optimizer.learning_rate=0.5"])
  old, rate = run.train.batch_size, run.train.optimizer.learning_rate
  assert changes(run, other) == [f"train.batch_size=24 (was {old})", f"train.optimizer.learning_rate=0.5 (was {rate})"]
  assert changes(run, run) == []
