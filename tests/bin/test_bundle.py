"""ivid bundle: work folders in, a cascade folder out, and what it answers to wrong input."""

import dataclasses

import pytest

from ivid import __main__ as command_line
from ivid.sample.cascades import load_text
from ivid.spec.run import DataSpec, MeshSpec, RunSpec, TrainSpec
from ivid.weights.cascades import open_cascade
from tests.sample import tiny


@pytest.fixture
def bundle(tmp_path, monkeypatch, capsys):
  """bundle(*arguments) -> (status, stdout lines, stderr lines); the work folders W/NAME hold the tiny stages."""
  digest = tiny.write_text(tmp_path / "text")
  untrained_config = tiny.tiny_cascade("")  # a config does not know its encoder's hash
  run = RunSpec("base", untrained_config, TrainSpec(), MeshSpec(), DataSpec(text_encoder=str(tmp_path / "text")))

  def load_ema(workdir):
    spec = tiny.tiny_cascade(digest).stage(workdir.removeprefix("W/"))
    return dataclasses.replace(spec, sampling=tiny.NOISY), tiny.random_params(spec, 0), 7

  monkeypatch.setattr("ivid.bin.bundle.load_run", lambda config, overrides: run)
  monkeypatch.setattr("ivid.weights.ema.load_ema", load_ema)
  monkeypatch.delenv(command_line.TRACEBACK, raising=False)

  def call(*arguments):
    status = command_line.main(["bundle", "--config=tiny", f"--text={tmp_path / 'text'}", *arguments])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()

  return call


def test_stages_are_collected_one_after_the_other(bundle, tmp_path):
  out = tmp_path / "cascade"
  status, lines, _ = bundle("--out", str(out), "base=W/base")
  assert status == 0 and lines == [f"{out}/base: step 7", f"{out}/tsr1: not trained", f"{out}/ssr1: not trained"]
  status, lines, _ = bundle(f"--out={out}", "tsr1=W/tsr1")
  assert status == 0 and lines == [f"{out}/base: step 7", f"{out}/tsr1: step 7", f"{out}/ssr1: not trained"]
  assert load_text(open_cascade(out), ("base", "tsr1")).spec == tiny.TEXT


@pytest.mark.parametrize(
  "arguments, status, line",
  [
    (["--out=x"], 2, "no stages: expected STAGE=WORKDIR"),
    (["base=W/base"], 2, "--out is missing"),
    (["--out=x", "base"], 2, "'base': expected STAGE=WORKDIR"),
    (["--out=x", "bas=W/base"], 1, "unknown stage 'bas' in bas=W/base: did you mean 'base'?"),
    (["--out=x", "base=W/base", "base=W/tsr1"], 2, "stage base is given twice, as W/base and W/tsr1"),
    (["--out=x", "base=W/tsr1"], 1, "weights given for stage base are of another stage: name='tsr1', expected 'base'"),
  ],
)
def test_wrong_input_is_one_line(bundle, tmp_path, monkeypatch, arguments, status, line):
  monkeypatch.chdir(tmp_path)
  found, _, errors = bundle(*arguments)
  assert found == status and len(errors) == 1 and errors[0].startswith(f"ivid bundle: error: {line}")
  assert not (tmp_path / "x").exists()
