"""`ivid compile`: the real TPU compiler on a small stage, and what it answers to wrong input."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from ivid.__main__ import main
from ivid.measure.compiling import format_report, refuse_too_small
from ivid.measure.topology import parse_slice

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
from configs import tiny

def get_config(stage="base"):
  config = tiny.get_config(stage)
  with config.unlocked():
    config.cascade.stages.base.unet.levels = (dict(channels=128, blocks=3, time="convolution", remat=True),)
    config.cascade.text.max_tokens = 16
    config.train.image_fraction = 0.0
  return config
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the tpu extra")
def test_a_small_stage_compiles_for_a_slice_that_is_not_there(tmp_path):
  config = tmp_path / "small.py"
  config.write_text(CONFIG, encoding="utf-8")
  figures = tmp_path / "figures.json"
  command = [sys.executable, "-m", "ivid", "compile", f"--config={config}:base", "--topology=v5e:2x2"]
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  done = subprocess.run([*command, f"--json={figures}"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
  assert done.returncode == 0, done.stderr
  assert done.stderr == ""
  report = json.loads(figures.read_text())
  assert (report["chips"], report["mesh"]["data"]) == (4, 4)
  assert 0 < report["bytes_per_chip"]["total"] < 16e9 and 0 < report["step_seconds"] < 1 and 0 < report["mfu"] < 1
  # Gradients in float32, once each, the blocks' in a loop; the embedding of the guidance weight alone has none.
  assert 0.99 < report["collectives"]["all-reduce"]["bytes"] / (4 * report["parameters"]) < 1.01
  assert done.stdout.strip() == format_report(report)


REPORT = {"stage": "base", "bytes_per_chip": {"total": 40e9, "hbm": 16e9}}


def test_a_slice_that_is_too_small_is_answered_with_one_that_is_not():
  with pytest.raises(ValueError, match=r"base needs 40.0 GB per chip, v5e:2x2 has 16.0: the smallest that should fit is v5e:4x4"):
    refuse_too_small(REPORT, parse_slice("v5e:2x2"))
  with pytest.raises(ValueError, match="no slice of this family should fit"):
    refuse_too_small({**REPORT, "bytes_per_chip": {"total": 40e9, "hbm": 1e7}}, parse_slice("v5e:2x2"))
  refuse_too_small({**REPORT, "bytes_per_chip": {"total": 16e9, "hbm": 16e9}}, parse_slice("v5e:2x2"))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--topology is missing: expected a TPU slice such as v5p:4x4x8"),
    (["--topology=v9:2x2"], "unknown family 'v9'"),
    (["--topology=v5e:2x2", "--program=trian"], "--program=trian: did you mean 'train'?"),
  ],
)
def test_wrong_input_is_one_line(arguments, message, capsys):
  assert main(["compile", "--config=tiny:base", *arguments]) == (2 if "missing" in message else 1)
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1 and message in lines[0]
