"""A user's clip into a stage: sizes, rates, timestamps, pixel formats and rotation."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from ivid.media.clips import write_clip
from ivid.media.videos import EXACT
from ivid.sample.entry import read_entry
from ivid.spec.clip import ClipShape

WANT = ClipShape(8, 24, 40, 6.0)


def grey(*levels, height=24, width=40):
  """A clip of plain pictures."""
  return np.stack([np.full((height, width, 3), level, np.uint8) for level in levels])


def levels(entry):
  return [int(round(float(frame.mean()))) for frame in entry.frames]


def write_frames(path, pictures, times, *, codec="ffv1", pix_fmt="bgr0", source="rgb24", rate=30):
  """A clip whose picture k appears at times[k] milliseconds."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt = pix_fmt
    stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
    for picture, time in zip(pictures, times, strict=True):
      # FFmpeg's fast path to ten bits leaves pixels unwritten now and then at widths that are no multiple of 16.
      frame = av.VideoFrame.from_ndarray(picture, format=source).reformat(format=pix_fmt, interpolation=EXACT)
      frame.pts, frame.time_base = time, Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path


def test_what_fits_is_not_changed(tmp_path):
  clip = np.random.default_rng(0).integers(0, 256, (8, 24, 40, 3), np.uint8)
  write_clip(tmp_path / "clip.png", clip, 6.0)
  entry = read_entry(tmp_path / "clip.png", WANT)
  np.testing.assert_array_equal(entry.frames, clip)
  assert entry.changes == ()


def test_resampled_by_timestamp(tmp_path):
  write_clip(tmp_path / "clip.png", grey(*range(0, 240, 10)), 24.0)
  entry = read_entry(tmp_path / "clip.png", WANT)
  assert levels(entry) == list(range(0, 240, 40))
  assert entry.changes == ("resampled 24 frames (24 frames a second, 1 s) to 6 at 6 a second, 18 of them not shown",)


def test_variable_frame_rate(tmp_path):
  # Pictures at 0, 0.1, 0.6, 0.7 and 1 seconds; what is seen at k / 6 seconds is the last one before.
  path = write_frames(tmp_path / "vfr.mkv", grey(10, 60, 110, 160, 210), [0, 100, 600, 700, 1000])
  entry = read_entry(path, WANT)
  assert levels(entry) == [10, 60, 60, 60, 110, 160]
  assert "frames at uneven times" in entry.changes[0]


def test_slow_clips_repeat(tmp_path):
  write_clip(tmp_path / "clip.png", grey(0, 100), 2.0)
  entry = read_entry(tmp_path / "clip.png", WANT)
  assert levels(entry) == [0, 0, 0, 100, 100, 100]


def test_cut_about_the_middle_and_resized(tmp_path):
  clip = grey(*[50] * 8, height=48, width=100)
  clip[:, :, :10] = clip[:, :, 90:] = 255  # what the aspect of 40x24 leaves out
  write_clip(tmp_path / "clip.png", clip, 6.0)
  entry = read_entry(tmp_path / "clip.png", WANT)
  assert entry.frames.shape == WANT.array and (entry.frames == 50).all()
  assert entry.changes == ("cut 20 of 100 columns to an aspect of 1.667", "resized 80x48 to 40x24")


def test_squeezed_for_a_cascade_that_unsqueezes(tmp_path):
  """A square stage of a wide cascade: cut to the cascade's aspect, then squeezed."""
  clip = grey(*[0] * 8, height=30, width=50)
  clip[:, :, 25:] = 200
  write_clip(tmp_path / "clip.png", clip, 6.0)
  entry = read_entry(tmp_path / "clip.png", ClipShape(8, 16, 16, 6.0), aspect=5 / 3)
  assert entry.frames.shape == (8, 16, 16, 3) and entry.changes == ("resized 50x30 to 16x16",)
  assert entry.frames[:, :, :7].max() == 0 and entry.frames[:, :, 9:].min() == 200


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (25, 41), (1, 300)])
def test_odd_and_tiny_pictures(tmp_path, shape):
  write_clip(tmp_path / "clip.png", grey(77, height=shape[0], width=shape[1]), 6.0)
  entry = read_entry(tmp_path / "clip.png", WANT)
  assert entry.frames.shape == (1, 24, 40, 3) and (entry.frames == 77).all()


def test_one_picture_is_a_clip_of_one_frame(tmp_path):
  from PIL import Image

  for name in ("picture.png", "picture.jpg"):
    Image.fromarray(grey(90)[0]).save(tmp_path / name)
    entry = read_entry(tmp_path / name, WANT)
    assert entry.frames.shape == (1, 24, 40, 3) and abs(levels(entry)[0] - 90) <= 1


def test_ten_bits(tmp_path):
  path = write_frames(tmp_path / "ten.mkv", grey(40, 200, 200), [0, 200, 500], pix_fmt="yuv420p10le")
  assert np.allclose(sorted(set(levels(read_entry(path, WANT)))), [40, 200], atol=1)


def test_alpha_lies_on_black(tmp_path):
  picture = np.zeros((24, 40, 4), np.uint8)
  picture[..., 0], picture[..., 3] = 200, 128
  path = write_frames(tmp_path / "alpha.mkv", [picture], [0], pix_fmt="bgra", source="rgba")
  np.testing.assert_allclose(read_entry(path, WANT).frames[0, 0, 0], [100, 0, 0], atol=1)


def test_turned_as_its_metadata_says(tmp_path):
  clip = grey(*[0] * 8, height=40, width=24)
  clip[:, :, 12:] = 200  # the right half
  path = tmp_path / "clip.mp4"
  write_clip(path, clip, 6.0)
  data = bytearray(path.read_bytes())
  matrix = data.index(b"tkhd") + 44  # version 0: 40 bytes follow the name before the matrix
  unity = (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
  assert struct.unpack_from(">9i", data, matrix) == unity
  struct.pack_into(">9i", data, matrix, 0, 0x10000, 0, -0x10000, 0, 0, 24 << 16, 0, 0x40000000)  # clockwise by a quarter
  path.write_bytes(data)
  entry = read_entry(path, WANT)
  assert entry.frames.shape == WANT.array
  upper, lower = entry.frames[:, :10].mean(), entry.frames[:, 14:].mean()
  assert upper < 10 and lower > 190


@pytest.mark.parametrize(
  "content, message",
  [
    (None, "no clip at .*: no such file"),
    (b"", "is empty: expected a clip"),
    (b"this is text, not video", "is no clip that can be read"),
    ("sound", "holds no pictures"),
    ("broken", "is no clip that can be read|breaks off|is damaged|holds no pictures"),
  ],
)
def test_what_is_no_clip(tmp_path, content, message):
  path = tmp_path / "clip.mp4"
  if content == "sound":
    with av.open(str(path), "w") as container:
      stream = container.add_stream("aac", rate=8000, layout="mono")
      frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
      frame.sample_rate, frame.pts = 8000, 0
      container.mux(stream.encode(frame))
      container.mux(stream.encode(None))
  elif content == "broken":
    write_clip(path, np.random.default_rng(0).integers(0, 256, (8, 24, 40, 3), np.uint8), 6.0)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 40])
  elif content is not None:
    path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    read_entry(path, WANT)
  assert "\n" not in str(error.value)


def test_too_long_for_the_memory(tmp_path):
  write_clip(tmp_path / "clip.png", grey(*range(24)), 6.0)
  with pytest.raises(ValueError, match="lasts longer than the 3 s that there is memory for"):
    read_entry(tmp_path / "clip.png", WANT, max_seconds=3.0)
