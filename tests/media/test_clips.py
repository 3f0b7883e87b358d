"""Clips written, read back and looked into."""

import os
import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest

from ivid.media.clips import from_uint8, read_clip, read_metadata, to_uint8, write_clip

SUFFIXES = [".mp4", ".webm", ".gif", ".png"]
METADATA = {"prompt": "ein Käse, 紅 " + "x" * 600, "seed": 1, "steps": [8, 8]}


def _clip(frames=10, height=24, width=40):
  """A smooth gradient with a square that moves in the first frames, then rests."""
  h, w = np.mgrid[:height, :width]
  clip = np.stack([np.stack([h * 255 // height, w * 255 // width, 0 * h + 128], -1)] * frames).astype(np.uint8)
  for t in range(frames):
    clip[t, 8:16, 2 * min(t, 4) : 2 * min(t, 4) + 8] = (220, 30, 30)
  return clip


@pytest.mark.parametrize("fps", [3, 24, Fraction(24000, 1001), 7.5])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_size_and_rate_come_back(tmp_path, suffix, fps):
  clip = _clip()
  write_clip(tmp_path / f"a{suffix}", clip, fps)
  back, rate = read_clip(tmp_path / f"a{suffix}")
  assert back.shape == clip.shape and back.dtype == np.uint8
  assert abs(rate - Fraction(fps)) < (0.3 if suffix == ".gif" else 1e-6)
  assert np.abs(back.astype(int) - clip).mean() < 6
  assert len(read_clip(tmp_path / f"a{suffix}", max_frames=3)[0]) == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_frame(tmp_path, suffix):
  write_clip(tmp_path / f"a{suffix}", _clip(1), 6)
  back, rate = read_clip(tmp_path / f"a{suffix}")
  assert back.shape == (1, 24, 40, 3)
  assert abs(rate - 6) < 0.3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_flat_colours(tmp_path, suffix):
  colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 0, 0], [255, 255, 255], [128, 128, 128], [200, 90, 30]])
  for i, colour in enumerate(colours):
    clip = np.broadcast_to(colour.astype(np.uint8), (3, 48, 80, 3))
    path = tmp_path / f"{i}{suffix}"
    write_clip(path, clip, 6)
    assert np.abs(read_clip(path)[0].astype(int) - clip).mean() < 3, colour


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_few_colours_are_exact_and_sides_may_be_odd(tmp_path, suffix):
  clip = np.random.default_rng(0).integers(0, 2, (5, 7, 9, 3), np.uint8) * 255
  write_clip(tmp_path / f"a{suffix}", clip, 5)
  back, rate = read_clip(tmp_path / f"a{suffix}")
  np.testing.assert_array_equal(back, clip)
  assert rate == 5


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_round_trip(tmp_path, suffix):
  path = tmp_path / f"a{suffix}"
  write_clip(path, _clip(2), 6, metadata=METADATA)
  assert read_metadata(path) == METADATA
  write_clip(path, _clip(2), 6)
  assert read_metadata(path) is None


def test_mp4_is_what_browsers_play(tmp_path):
  path = tmp_path / "a.mp4"
  write_clip(path, _clip(), 6, metadata=METADATA)
  data = path.read_bytes()
  assert 0 < data.find(b"moov") < data.find(b"mdat")
  assert b"colrnclx\x00\x01\x00\x01\x00\x01\x00" in data  # primaries, transfer and matrix BT.709, limited range
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    assert (stream.codec_context.name, stream.pix_fmt, stream.frames, stream.average_rate) == ("h264", "yuv420p", 10, 6)
    assert (stream.width, stream.height) == (40, 24)
    assert float(stream.duration * stream.time_base) == pytest.approx(10 / 6, abs=1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_luma_is_bt709_of_limited_range(tmp_path, suffix):
  red = np.broadcast_to(np.array([255, 0, 0], np.uint8), (1, 48, 80, 3))
  write_clip(tmp_path / f"a{suffix}", red, 6)
  with av.open(str(tmp_path / f"a{suffix}")) as container:
    planes = next(container.decode(video=0)).to_ndarray()
  assert abs(planes[:48].mean() - (16 + 219 * 0.2126)) < 1
  assert abs(planes[60:].mean() - 240) < 1  # Cr


def test_webm_is_vp9_with_tagged_colours(tmp_path):
  write_clip(tmp_path / "a.webm", _clip(), 6)
  with av.open(str(tmp_path / "a.webm")) as container:
    context = container.streams.video[0].codec_context
    assert (context.name, context.pix_fmt, context.colorspace, context.color_range) == ("vp9", "yuv420p", 1, 1)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_better_quality_is_nearer_and_larger(tmp_path, suffix):
  grey = np.random.default_rng(0).integers(0, 256, (4, 48, 80, 1), np.uint8)  # 4:2:0 keeps no colours so fine
  clip = np.broadcast_to(grey, (*grey.shape[:3], 3))
  sizes, distances = [], []
  for crf in (5, 40):
    path = tmp_path / f"{crf}{suffix}"
    write_clip(path, clip, 6, crf=crf)
    sizes.append(path.stat().st_size)
    distances.append(np.abs(read_clip(path)[0].astype(int) - clip).mean())
  assert sizes[0] > 1.8 * sizes[1]
  assert distances[0] < 3 and distances[1] > 4 * distances[0]


@pytest.mark.parametrize("name,clip,fps,crf,message", [
  ("a.mp5", _clip(1), 6, None, r"unknown suffix '.mp5', did you mean '.mp4'\?"),
  ("a", _clip(1), 6, None, "unknown suffix ''"),
  ("a.mp4", _clip(1, 23, 40), 6, None, "40x23 as .mp4: it wants even sides"),
  ("a.webm", _clip(1, 24, 41), 6, None, "41x24 as .webm"),
  ("a.mp4", _clip(1) / 255, 6, None, r"float64 \[1, 24, 40, 3\], expected uint8"),
  ("a.mp4", _clip(1)[0], 6, None, r"uint8 \[24, 40, 3\], expected uint8 \[T"),
  ("a.mp4", _clip(1), 0, None, "fps=0"),
  ("a.mp4", _clip(1), float("nan"), None, "fps=nan, expected a positive number"),
  ("a.png", _clip(1), float("inf"), None, "fps=inf"),
  ("a.png", _clip(1), 1e-9, None, "fps=1e-09"),
  ("a.mp4", _clip(1), 6, 52, "crf=52: a .mp4 takes 0 .* to 51"),
  ("a.gif", _clip(1), 60, None, "at most 50"),
])  # fmt: skip
def test_wrong_input_is_one_line_and_leaves_nothing(tmp_path, name, clip, fps, crf, message):
  with pytest.raises(ValueError, match=message) as caught:
    write_clip(tmp_path / name, clip, fps, crf=crf)
  assert "\n" not in str(caught.value)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, suffix):
  path = tmp_path / f"a{suffix}"
  path.write_bytes(b"old")

  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(ValueError, match="cannot write .*No space left"):
    write_clip(path, _clip(2), 6)
  assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_bytes() == b"old"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folder_that_cannot_be(tmp_path, suffix):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="cannot write"):
    write_clip(tmp_path / "file" / f"a{suffix}", _clip(2), 6)
  assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_reading_what_is_no_clip(tmp_path, suffix):
  path = tmp_path / f"a{suffix}"
  with pytest.raises(ValueError, match="no such file"):
    read_clip(path)
  path.write_text("hello")
  for reader in (read_clip, read_metadata):
    with pytest.raises(ValueError, match="can be read") as caught:
      reader(path)
    assert str(path) in str(caught.value)


def test_truncated_mp4(tmp_path):
  path = pathlib.Path(tmp_path / "a.mp4")
  write_clip(path, np.random.default_rng(0).integers(0, 256, (8, 48, 80, 3), np.uint8), 6)
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(ValueError, match="a.mp4"):
    read_clip(path)


def test_bytes_and_floats():
  values = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(to_uint8(from_uint8(values)), values)
  np.testing.assert_array_equal(to_uint8(np.array([-2.0, -1.0, 0.0, 1.0, 2.0])), [0, 0, 128, 255, 255])
  assert from_uint8(values).dtype == np.float32 and (from_uint8(values)[0], from_uint8(values)[-1]) == (-1, 1)
