"""--config: files, names, stages and overrides; wrong ones name the nearest right one."""

import pytest

from ivid.config import load_config, load_run, shipped_configs


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_loads_for_all_its_stages(name):
  run = load_run(name)
  for stage in run.cascade.stage_names:
    assert load_run(f"{name}:{stage}").stage == stage


@pytest.mark.parametrize("name", shipped_configs())
def test_every_config_says_how_to_run_it(name):
  module_doc = load_config.__globals__["_config_folder"]() / f"{name}.py"
  assert f"ivid train --config={name}:" in module_doc.read_text(encoding="utf-8")


def test_overrides_are_typed():
  run = load_run("nano:base", ["train.batch_size=4", "train.optimizer.learning_rate=1", "train.optimizer.kind=adam"])
  assert run.train.batch_size == 4
  assert run.train.optimizer.learning_rate == 1.0
  assert run.train.optimizer.kind.value == "adam"


@pytest.mark.parametrize(
  ("config", "overrides", "message"),
  [
    (None, [], "--config is missing"),
    ("nan:base", [], r"no config 'nan': did you mean 'nano'\?"),
    ("nano:bas", [], r"unknown stage 'bas': did you mean 'base'\?"),
    ("nano:base", ["train.batchsize=3"], r"unknown key 'config.train.batchsize': did you mean 'batch_size'\?"),
    ("nano:base", ["trian.batch_size=3"], r"unknown key 'config.trian': did you mean 'train'\?"),
    ("nano:base", ["train.batch_size=many"], "train.batch_size=many: expected int"),
    ("nano:base", ["train.batch_size=-3"], "train.batch_size=-3: expected 1 or more"),
    ("nano:base", ["train.optimizer.kind=mun"], r"kind='mun': did you mean 'muon'\?"),
    (
      "nano:base",
      ["cascade.stages.base.diffusion.resolution_shift=True"],
      "base.diffusion.resolution_shift': it is now logsnr_shift, a number: 0",
    ),
    ("nano:base", ["cascade.stages.base.diffusion.logsnr_shif=1"], r"logsnr_shif': did you mean 'logsnr_shift'\?"),
    ("nano:base", ["cascade.stages.base.diffusion.logsnr_shift=True"], "logsnr_shift=True: expected float"),
    ("nano:base", ["train.batch_size"], "expected --config.train.batch_size=VALUE"),
    ("nano:base", ["cascade.stages.tsr1.output.frames=24"], "24 frames are no multiple of its input's 16"),
  ],
)
def test_wrong_input(config, overrides, message):
  with pytest.raises(ValueError, match=message) as error:
    load_run(config, overrides)
  assert "\n" not in str(error.value)
