"""`ivid bench`: it runs on the tiny cascade, and says what it does not know."""

import json
import math

import numpy as np
import pytest

from ivid.__main__ import main
from ivid.measure import text as bench_text
from ivid.measure.timing import interleaved
from ivid.parallel.memory import RESET, peak_bytes, reset_peak
from ivid.spec import t5
from ivid.spec.cascade import TextSpec
from ivid.spec.formats import FORMAT
from tests.sample import tiny


def read_rows(path):
  found = json.loads(path.read_text())
  assert found.keys() == {"format", "rows"} and found["format"] == FORMAT
  return found["rows"]


def test_unet(capsys, tmp_path):
  path = tmp_path / "bench.json"
  assert main(["bench", "unet", "--config=tiny", "--stages=base", "--repeats=1", f"--json={path}"]) == 0
  (row,) = read_rows(path)
  assert row["stage"] == "base" and f"{row['parameters']:,}" in capsys.readouterr().out
  assert all(math.isfinite(value) and value > 0 for value in row["gflops"].values())
  assert row["ratio_forward"] == pytest.approx(row["gflops"]["forward"] / row["gflops"]["matmul"])


def test_text(capsys, tmp_path, monkeypatch):
  spec = TextSpec(name="t5_v1_1_small", vocab_size=300, dim=16, layers=2, heads=2, head_dim=8, mlp_dim=24, max_tokens=128)
  monkeypatch.setitem(t5.SPECS, "t5_v1_1_small", spec)
  path = tmp_path / "bench.json"
  assert main(["bench", "text", "--batch_size=3", "--repeats=1", f"--json={path}"]) == 0
  (row,) = read_rows(path)
  length = len(bench_text.CAPTION.format(0)) + 1
  products = 4 * 16 * 16 + 3 * 16 * 24  # a token's in the projections and the MLP; attention adds two products over the length
  assert row["tokens"] == 3 * length and row["gflop"] == pytest.approx(3 * 2 * 2 * length * (products + 2 * length * 16) / 1e9)
  assert row["ratio"] == pytest.approx(row["gflops"]["embed"] / row["gflops"]["matmul"]) and row["ratio"] > 0
  assert row["gflops"]["embed"] == pytest.approx(row["gflop"] * row["captions_per_second"] / 3)
  assert f"{row['parameters']:,}" in capsys.readouterr().out


def test_sample(capsys, tmp_path):
  path = tmp_path / "bench.json"
  cascade = tiny.write_tiny(tmp_path, frames=8).folder
  assert main(["bench", "sample", f"--cascade={cascade}", "--tile=ssr1=6x0x0", "--steps=ssr1=4", f"--json={path}"]) == 0
  rows, printed = read_rows(path), capsys.readouterr().out
  assert [(row["stage"], row["steps"]) for row in rows] == [("base", 3), ("tsr1", 3), ("ssr1", 4)]
  for row in rows:
    assert 0 < row["seconds_per_step"] * row["steps"] < 1.5 * row["seconds"] and row["peak_bytes"] > 1e8
    assert row["gflops"] == pytest.approx(row["gflop_per_step"] / row["seconds_per_step"])
    assert row["output"] in printed
  # Two windows of 6 of the 8 frames: half as much again as the clip, which a step's arithmetic leaves out.
  assert [(row["tile"], row["overlap"]) for row in rows] == [("whole", 1.0), ("whole", 1.0), ("6x16x24", 1.5)]
  assert "6x16x24" in printed


def test_data(capsys, tmp_path):
  path = tmp_path / "bench.json"
  options = ["--config.data.caption_pool=32", f"--config.data.cache={tmp_path}", "--repeats=1", f"--json={path}"]
  assert main(["bench", "data", "--config=tiny:base", *options]) == 0
  rows, printed = read_rows(path), capsys.readouterr()
  assert [row["size"] for row in rows] == ["1x12x20", "4x12x20"] and all(row["view"] in printed.out for row in rows)
  for row in rows:
    seconds = row["seconds"]
    assert row["caption_pool"] == 32 and 0 < seconds["draw"] < seconds["example"] and 0 < seconds["text"]
    assert 0 < seconds["scene"] < seconds["example"] and 0 < seconds["devices"]
    assert row["examples_per_second"] == pytest.approx(1 / (seconds["example"] + seconds["text"]))
  assert "embedding" in printed.err and len(list(tmp_path.glob("embeddings/nano-*/rows-*.npy"))) == 1


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
    ([], "expected one of unet, sample, text, data"),
    (["text", "--config.data.threads=2"], "--config.data.threads=2: expected for `ivid bench data` alone"),
    (["data", "--config.data.name=tfds:clips"], "data.name='tfds:clips': expected moving_shapes"),
    (["sample", "--cascade=nanoo"], "no cascade 'nanoo'"),
    (["sample", "--stop_stage=tsr9"], "unknown stage 'tsr9': did you mean"),
    (["sample", "--mesh=frames=3"], "mesh frames=3 does not divide the frames=16 of stage base: expected frames=2"),
    (["sample", "--mesh=height=2", "--tile=ssr3=32x0x0"], "tile=32x0x0 of stage ssr3: a mesh with frames or height cuts whole clips"),
    (["unet", "--stages=bsae"], "unknown stage 'bsae': did you mean 'base'?"),
    (["unet", "--repeats=0"], "repeats"),
    (["text", "--encoders=t5_v1_1_smal"], "unknown T5 't5_v1_1_smal': did you mean 't5_v1_1_small'?"),
  ],
)
def test_bad_input(capsys, args, message):
  usage = args in ([], ["unit"], ["unet", "--repeats=0"]) or "alone" in message
  assert main(["bench", *args]) == (2 if usage else 1)
  assert message in capsys.readouterr().err


def test_calls_take_turns():
  order = []
  interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
  assert order == ["a", "b"] * 3
