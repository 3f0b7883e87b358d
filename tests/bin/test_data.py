import numpy as np
import pytest
from PIL import Image

from ivid.bin.data import clip_shape, main


def test_inspect_writes_a_sheet(tmp_path, capsys):
  main(["ivid data", "inspect", "--config=tiny:ssr1", f"--out={tmp_path / 'sheet.png'}", "--num_clips=1"])
  with Image.open(tmp_path / "sheet.png") as image:
    picture = np.asarray(image)
  assert picture.shape[0] > 5 * 24 and picture.shape[1] > 8 * 40  # five rows of eight frames
  assert "sheet.png" in capsys.readouterr().out


def test_prepare_writes_a_data_set(tmp_path, capsys):
  main(["ivid data", "prepare", f"--out={tmp_path}", "--num_clips=2", "--num_test=1", "--size=4x12x20"])
  assert (tmp_path / "moving_shapes" / "4x12x20" / "1.0.0" / "dataset_info.json").is_file()
  assert "tfds:moving_shapes/4x12x20" in capsys.readouterr().out


def test_the_rate_follows_from_the_frames():
  assert clip_shape("16x24x40", None).fps == 3.0
  assert clip_shape("16x24x40", 6.0).fps == 6.0


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "expected one of inspect, prepare"),
    (["inspct", "--out=a.png"], "did you mean 'inspect'"),
    (["inspect"], "--out is missing: expected a .png"),
    (["inspect", "--config=tiny:base", "--out=a.jpg"], "such as a.png"),
    (["inspect", "--config=tiny:ssr2", "--out=a.png"], "did you mean 'ssr1'"),
    (["prepare", "--out=a", "--size=3x4"], "such as 16x24x40"),
    (["prepare", "--out=a", "--sise=3x4"], "sise"),
  ],
)
def test_errors_are_one_line(arguments, message):
  with pytest.raises(ValueError, match=message) as error:
    main(["ivid data", *arguments])
  assert "\n" not in str(error.value)
