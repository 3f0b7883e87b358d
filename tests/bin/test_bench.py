"""`ivid bench`: it runs on the tiny cascade, and says what it does not know."""

import json
import math

import numpy as np
import pytest

from ivid.__main__ import main
from ivid.bin.bench import interleaved
from ivid.bin.bench_sample import RESET, peak_bytes, reset_peak
from tests.sample import tiny


def test_unet(capsys, tmp_path):
  path = tmp_path / "bench.json"
  assert main(["bench", "unet", "--config=tiny", "--stages=base", "--repeats=1", f"--json={path}"]) == 0
  (row,) = json.loads(path.read_text())
  assert row["stage"] == "base" and f"{row['parameters']:,}" in capsys.readouterr().out
  assert all(math.isfinite(value) and value > 0 for value in row["gflops"].values())
  assert row["ratio_forward"] == pytest.approx(row["gflops"]["forward"] / row["gflops"]["matmul"])


def test_sample(capsys, tmp_path):
  path = tmp_path / "bench.json"
  cascade = tiny.write_tiny(tmp_path).folder
  assert main(["bench", "sample", f"--cascade={cascade}", "--tile=tsr1=8x0x0", "--steps=ssr1=4", f"--json={path}"]) == 0
  rows, printed = json.loads(path.read_text()), capsys.readouterr().out
  assert [(row["stage"], row["steps"]) for row in rows] == [("base", 3), ("tsr1", 3), ("ssr1", 4)]
  for row in rows:
    assert 0 < row["seconds_per_step"] * row["steps"] < 1.5 * row["seconds"] and row["peak_bytes"] > 1e8
    assert row["gflops"] == pytest.approx(row["gflop_per_step"] / row["seconds_per_step"])
    assert row["overlap"] == 1.0 and row["output"] in printed


def test_peak_memory_is_of_the_stage_alone():
  reset_peak()
  before = peak_bytes()
  held = np.ones(50_000_000, np.float64)
  assert peak_bytes() - before > 0.9 * held.nbytes
  del held
  reset_peak()
  assert peak_bytes() < before + 200e6 or not RESET.exists()


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["unit"], "did you mean 'unet'?"),
    ([], "expected one of unet, sample"),
    (["sample", "--cascade=nanoo"], "no cascade 'nanoo'"),
    (["sample", "--stop_stage=tsr9"], "unknown stage 'tsr9': did you mean"),
    (["unet", "--stages=bsae"], "unknown stage 'bsae': did you mean 'base'?"),
    (["unet", "--repeats=0"], "repeats"),
  ],
)
def test_bad_input(capsys, args, message):
  assert main(["bench", *args]) in (1, 2)
  assert message in capsys.readouterr().err


def test_calls_take_turns():
  order = []
  interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
  assert order == ["a", "b"] * 3
