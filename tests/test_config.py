"""--config: files, names, stages and overrides; wrong ones name the nearest right one."""

import pathlib

import pytest

from ivid.config import load_run, read_config, shipped_configs
from ivid.measure.dry_run import dry_run_report
from ivid.parallel.mesh import make_mesh
from ivid.spec.errors import UserError
from ivid.spec.run import CropSpec, DataSpec, RunMeshSpec
from ivid.spec.sampling import ThresholdKind
from ivid.spec.stage import Filter

ROOT = pathlib.Path(__file__).parents[1]
SMALL = str(ROOT / "tests" / "fixtures" / "small_cascade.py")


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_loads_for_all_its_stages(name):
  run = load_run(name)
  for stage in run.cascade.stage_names:
    assert load_run(f"{name}:{stage}").stage == stage


@pytest.mark.parametrize("name", shipped_configs())
def test_every_config_says_how_to_run_it(name):
  assert f"ivid train --config={name}:" in (ROOT / "configs" / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", shipped_configs())
def test_overrides_need_not_be_in_the_file(name):
  wide = "cascade.stages.base.unet.levels[1].channels=256"
  run = load_run(f"{name}:base", ["mesh.frames=1", "train.optimizer.weight_decay=0.1", wide, "cascade.text.layers=3"])
  assert (run.mesh.frames, run.train.optimizer.weight_decay, run.cascade.text.layers) == (1, 0.1, 3)
  assert run.cascade.stage("base").unet.levels[1].channels == 256
  for stage in run.cascade.stages[1:]:
    if len(stage.unet.levels) > 1:
      path = f"cascade.stages.{stage.name}.unet.levels[1]"
      changed = load_run(f"{name}:{stage.name}", [f"{path}.channels=256", f"{path}.unroll=1"]).cascade.stage(stage.name)
      assert changed.unet.levels[1].channels == 256
      assert changed.unet.levels[0] == stage.unet.levels[0]


def test_an_override_changes_one_field():
  before, after = load_run("tiny:base"), load_run("tiny:base", ["train.optimizer.weight_decay=0.1"])
  assert after != before
  assert load_run("tiny:base", ["train.optimizer.weight_decay=0.1", "train.optimizer.weight_decay=0"]) == before


def test_optional_sections_and_lists():
  run = load_run(
    "tiny:tsr1",
    [
      "cascade.stages.tsr1.sampling.guidance.low=1",
      "cascade.stages.tsr1.lowres.shrink=triangle",
      "train.phases=[{'name': 'a', 'steps': 8}]",
      "train.phases[0].frames=4",
      "train.steps=None",
      "train.crop={'frames': 4}",
      "distill.stochastic=(4,)",
      "cascade.stages.tsr1.sampling.threshold=none",
    ],
  )
  stage = run.cascade.stage("tsr1")
  assert stage.sampling.guidance.low == 1.0
  assert stage.lowres.shrink is Filter.TRIANGLE
  assert stage.lowres.input == run.cascade.stage("base").output
  assert stage.sampling.threshold is ThresholdKind.NONE
  assert (run.train.phases[0].frames, run.train.total_steps, run.train.crop, run.distill.stochastic) == (4, 8, CropSpec(frames=4), (4,))
  # A section that is not there starts from its spec's defaults; what has none is asked for.
  student = [f"cascade.stages.base.student.{rest}" for rest in ("teacher=abc", "w_max=2.0")]
  assert load_run("tiny:base", student).cascade.stage("base").student.w_max == 2.0
  with pytest.raises(ValueError, match=r"missing key 'config.cascade.stages.base.student.teacher' of StudentSpec"):
    load_run("tiny:base", student[1:])


def test_the_input_follows_the_stage_before():
  run = load_run("tiny:base", [f"cascade.stages.{name}.output.width={width}" for name, width in (("base", 24), ("tsr1", 24), ("ssr1", 48))])
  assert [stage.lowres.input.width for stage in run.cascade.stages[1:]] == [24, 24]


def test_words_need_no_quotes():
  run = load_run("tiny:base", ["data.text_encoder=2024", "data.dir=", "data.name='moving_shapes'", "cascade.stages.base.unet.given=true"])
  assert run.data == DataSpec(text_encoder="2024")
  assert run.cascade.stage("base").unet.given is True


def test_a_cascade_of_ones_own_is_short():
  assert len(pathlib.Path(SMALL).read_text(encoding="utf-8").splitlines()) < 60
  run = load_run(f"{SMALL}:ssr1", ["train.batch_size=8", "cascade.stages.ssr1.sampling.steps=4"])
  assert (run.stage, run.cascade.stage_names, run.mesh) == ("ssr1", ("base", "ssr1"), RunMeshSpec())
  assert run.cascade.stage("ssr1").lowres.input == run.cascade.stage("base").output
  for stage in run.cascade.stages:
    report = dry_run_report(stage, run.train, make_mesh(run.mesh), max_tokens=run.cascade.text.max_tokens)
    assert report["parameters"] > 0
    assert report["batch"]["video"][:4] == [8, *stage.output.array[:3]]


def test_a_config_can_start_from_another(tmp_path):
  file = tmp_path / "longer.py"
  file.write_text(
    "from ivid.config import read_config\n\n\ndef get_config(stage='base'):\n  config = read_config(f'tiny:{stage}')\n"
    "  config['train'] |= dict(steps=40)\n  return config\n"
  )
  assert load_run(f"{file}:tsr1").train.steps == 40
  assert "mesh" not in read_config(f"{file}:tsr1")


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ("3", "get_config gave 3: expected a ConfigDict or a dict"),
    ("dict(cascade=dict(name='a', order=['a'], stages=3))", "config.cascade.stages=3: expected a section"),
    ("dict(cascade=dict(name='a', order=['b'], stages=dict(c={})))", "unknown stage 'b': expected one of c"),
    ("dict(cascade=dict(name='a', order=[['a']], stages={}))", r"config.cascade.order\[0\]=\['a'\]: expected str"),
    ("dict(cascade=dict(name='a', stages=dict(a={})))", "missing key 'config.cascade.order'"),
    ("dict(cascade={}, tran={})", r"unknown key 'config.tran': did you mean 'train'"),
  ],
)
def test_wrong_files(tmp_path, given, message):
  file = tmp_path / "wrong.py"
  file.write_text(
    f"def get_config(stage):\n  config = {given}\n  return dict(stage=stage, **config) if isinstance(config, dict) else config\n"
  )
  with pytest.raises(ValueError, match=message) as error:
    load_run(f"{file}:a")
  assert "\n" not in str(error.value)


def test_a_file_without_get_config(tmp_path):
  (tmp_path / "wrong.py").write_text("x = 1\n")
  with pytest.raises(ValueError, match=r"expected .*wrong.py to have a function get_config\(stage\)"):
    load_run(f"{tmp_path / 'wrong.py'}:a")


def test_a_missing_file_is_answered_with_the_nearest_file_beside_it(tmp_path):
  for name in ("my_nano.py", "unrelated.py"):
    (tmp_path / name).write_text("")
  with pytest.raises(UserError, match=r"did you mean '.*/my_nano.py'\? \(or one that ships: doubling, ") as error:
    load_run(f"{tmp_path}/my_nan.py:base")
  assert "unrelated" not in str(error.value)
  with pytest.raises(UserError, match=r"no config '.*/z.py': expected one of doubling, .*, or a .py file$"):
    load_run(f"{tmp_path}/z.py:base")


def test_overrides_are_typed():
  run = load_run("doubling:ssr1", ["train.batch_size=4", "train.optimizer.learning_rate=1", "train.optimizer.kind=adam"])
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
    ("nano:base", ["train.lr=1"], r"unknown key 'config.train.lr': there is config.train.optimizer.learning_rate and config.distill"),
    ("nano:base", ["train.learnin_rate=1"], "'config.train.learnin_rate': there is config.train.optimizer.learning_rate and"),
    ("nano:base", ["trian.batch_size=3"], r"unknown key 'config.trian': did you mean 'train'\?"),
    ("nano:base", ["train.batch_size=many"], "--config.train.batch_size=many: expected int, such as 8"),
    ("nano:base", ["train.batch_size=4.0"], "--config.train.batch_size=4.0: expected int, such as 8"),
    ("nano:base", ["train.batch_size=True"], "train.batch_size=True: expected int"),
    ("nano:base", ["train.logsnr_shift=low"], "train.logsnr_shift=low: expected float or None, such as 0.5"),
    ("nano:base", ["cascade.stages.base.unet.given=1"], "unet.given=1: expected bool, such as True"),
    ("nano:base", ["data.dir=None"], "data.dir=None: expected str"),
    ("nano:base", ["distill.stochastic=8"], r"distill.stochastic=8: expected a list, such as \(8,\)"),
    ("nano:base", ["distill.stochastic=[8.5]"], r"distill.stochastic\[0\]=8.5: expected int"),
    ("doubling:ssr1", ["train.phases=3"], r"train.phases=3: expected a list, such as \(\{'name': 'name', 'steps': 1\},\)"),
    (
      "nano:base",
      ["train.crop=3"],
      "config.train.crop is a section, expected --config.train.crop.KEY=VALUE with a KEY of frames, height",
    ),
    ("nano:base", ["train.crop={'frame': 3}"], r"unknown key 'config.train.crop.frame': did you mean 'frames'\?"),
    (
      "nano:base",
      ["train.steps.x=3"],
      "steps.x': config.train.steps is int, expected --config.train.steps=VALUE",
    ),
    ("nano:base", ["train[0]=3"], r"unknown key 'config.train\[0\]': config.train is a section"),
    ("nano:base", ["train.phases.steps=3"], r"config.train.phases is a list, expected config.train.phases\[0\].steps"),
    ("nano:base", ["train.phases[3].steps=3"], r"config.train.phases has 3, expected \[0\] to \[2\]"),
    (
      "nano:base",
      ["distill.guidance_phases=[{'name': 'a', 'steps': 3, 'learning_rate': 0.1}]", "distill.guidance_learning_rate=0.2"],
      r"guidance_learning_rate=0.2: every phase has its own value: expected distill.guidance_phases\[0\].learning_rate \(a\)",
    ),
    ("doubling:ssr1", ["train.phases[0].steps=3"], "config.train.phases has 0, expected the whole list"),
    ("nano:base", ["train..steps=3"], "--config.train..steps: expected names with dots between them"),
    ("nano:base", ["cascade.stages.bse.output.fps=3"], r"unknown key 'config.cascade.stages.bse': did you mean 'base'\?"),
    ("nano:base", ["cascade.stages.ssr1.lowres.aug_snrr=3"], r"lowres.aug_snrr': did you mean 'aug_snr'\?"),
    ("nano:base", ["cascade.order=('base', 'tsr2')"], "stage tsr2 expects|stage tsr2: "),
    ("nano:base", ["cascade.order=('base', 'base')"], "names stage 'base' twice"),
    ("nano:base", ["stage=tsr9"], r"unknown stage 'tsr9': did you mean 'tsr"),
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


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("x = (1\n", r"--config=.*wrong.py:a: .*wrong.py, line 1: no Python: '\(' was never closed"),
    ("\n\nimport nowhere_at_all\n", "wrong.py, line 3: ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ("def get_config(stage):\n  return 1 / 0\n", "wrong.py, line 2: ZeroDivisionError: division by zero"),
    ("def get_config():\n  return {}\n", r"wrong.py: TypeError: get_config\(\) takes 0"),
    ("get_config = 3\n", r"expected .*wrong.py to have a function get_config\(stage\)"),
    ("x = 1\n", r"expected .*wrong.py to have a function get_config\(stage\)"),
    ("\0", "wrong.py.*: .*null bytes"),
    ("# \xff", "wrong.py"),
  ],
)
def test_files_that_cannot_be_run(tmp_path, text, message):
  (tmp_path / "wrong.py").write_bytes(text.encode("latin-1"))
  with pytest.raises(UserError, match=message) as error:
    load_run(f"{tmp_path / 'wrong.py'}:a")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("cascade.stages.base.unet.head_dim=0", "unet.head_dim=0: expected 1 or more"),
    ("train.optimizer.learning_rate=1e400", "train.optimizer.learning_rate=inf: expected at most"),
    ("train.eval_batches=-1", "train.eval_batches=-1: expected 0 or more"),
    ("train.seed=-1", "train.seed=-1: expected 0 or more"),
    ("data.prefetch=0", "data.prefetch=0: expected 1 or more"),
    ("mesh.data=-2", "mesh.data=-2: expected 1 or more, or -1"),
  ],
)
def test_numbers_out_of_their_range(override, message):
  with pytest.raises(UserError, match=message):
    load_run("nano:base", [override])
