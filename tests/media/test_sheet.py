"""Contact sheets and tables."""

import numpy as np
import pytest

from ivid.media.clips import read_metadata
from ivid.media.pictures import write_png
from ivid.media.sheet import BACKGROUND, GAP, TEXT_WIDTH, contact_sheet, even_frames, table


def _flat(value, frames=16, height=24, width=40):
  return np.full((frames, height, width, 3), value, np.uint8)


def test_even_frames():
  assert even_frames(16, 8) == [0, 2, 4, 6, 9, 11, 13, 15]
  assert even_frames(4, 8) == [0, 1, 2, 3]
  assert even_frames(1, 8) == [0] and even_frames(9, 1) == [0]


def test_frames_stand_where_they_should():
  clip = np.arange(16, dtype=np.uint8).reshape(16, 1, 1, 1) * np.ones((1, 24, 40, 3), np.uint8) + 100
  sheet = contact_sheet([clip, clip[:4]], columns=4, scale=2)
  assert sheet.shape == (2 * 48 + 3 * GAP, 4 * 80 + 5 * GAP, 3) and sheet.dtype == np.uint8
  for column, frame in enumerate([0, 5, 10, 15]):
    left = GAP + column * (80 + GAP)
    assert (sheet[GAP : GAP + 48, left : left + 80] == 100 + frame).all()
    assert (sheet[2 * GAP + 48 : -GAP, left : left + 80] == 100 + column).all()
  assert (sheet[:GAP] == BACKGROUND).all()


def test_scale_repeats_pixels():
  picture = np.random.default_rng(0).integers(0, 256, (5, TEXT_WIDTH, 3), np.uint8)
  np.testing.assert_array_equal(table([[picture]], scale=3)[GAP:-GAP:3, GAP:-GAP:3], picture)


def test_captions_and_header_are_drawn_above():
  plain = contact_sheet([_flat(0)] * 2)
  sheet = contact_sheet([_flat(0)] * 2, captions=["a red circle", "ein Käse, 紅"], header="step 100")
  assert sheet.shape[0] > plain.shape[0] and sheet.shape[1] == plain.shape[1]
  assert (sheet.max(axis=-1) > 150).sum() > 100  # ink
  assert (plain.max(axis=-1) < 50).all()


def test_long_captions_wrap_instead_of_widening():
  word = "circle " * 200
  short, long = contact_sheet([_flat(0)], captions=["circle"]), contact_sheet([_flat(0)], captions=[word])
  assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0]


def test_table_aligns_columns_and_mixes_text():
  small, large = _flat(200)[0], _flat(90, height=30, width=60)[0]
  sheet = table([["input", "target", "caption"], [small, large, "a circle"], [large, small, "a square"]])
  assert sheet.shape[1] == 2 * max(TEXT_WIDTH, 60) + TEXT_WIDTH + 4 * GAP
  left = GAP + TEXT_WIDTH + GAP
  assert (sheet[:, left + 5] == 90).all(axis=-1).sum() == 30 and (sheet[:, left + 5] == 200).all(axis=-1).sum() == 24


@pytest.mark.parametrize("call,message", [
  (lambda: contact_sheet([]), "no clips"),
  (lambda: contact_sheet([_flat(0)], captions=["a", "b"]), "2 captions for 1 clips"),
  (lambda: contact_sheet([_flat(0)[0]]), r"\[24, 40, 3\]: expected \[T, H, W, 3\]"),
  (lambda: contact_sheet([_flat(0) / 255]), "float64"),
  (lambda: table([[_flat(0)[0]]], scale=0), "scale=0"),
  (lambda: table([[]]), "no cells"),
])  # fmt: skip
def test_wrong_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_write_png(tmp_path):
  write_png(tmp_path / "a.png", contact_sheet([_flat(9)]), {"step": 3})
  assert read_metadata(tmp_path / "a.png") == {"step": 3}
  with pytest.raises(ValueError, match="float64"):
    write_png(tmp_path / "b.png", np.zeros((2, 2, 3)))
  assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
