"""`ivid bench`: it runs on the tiny cascade, and says what it does not know."""

import json
import math

import pytest

from ivid.__main__ import main
from ivid.bin.bench import interleaved


def test_unet(capsys, tmp_path):
  path = tmp_path / "bench.json"
  assert main(["bench", "unet", "--config=tiny", "--stages=base", "--repeats=1", f"--json={path}"]) == 0
  (row,) = json.loads(path.read_text())
  assert row["stage"] == "base" and f"{row['parameters']:,}" in capsys.readouterr().out
  assert all(math.isfinite(value) and value > 0 for value in row["gflops"].values())
  assert row["ratio_forward"] == pytest.approx(row["gflops"]["forward"] / row["gflops"]["matmul"])


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["unit"], "did you mean 'unet'?"),
    ([], "expected one of unet"),
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
