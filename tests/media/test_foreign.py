"""Files of other people: rounded times, repeated pictures, clocks that jump, covers, cut files, playlists, huge sizes."""

import io
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from ivid.data.examine import examine
from ivid.data.windows import frames_at
from ivid.media import decode
from ivid.media.clips import read_clip, write_clip
from ivid.sample.entry import read_entry
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from tests.media.test_decode import encode

HEIGHT, WIDTH, BITS = 32, 96, 6
RATES = [3, 6, 12, Fraction(24000, 1001), 24, Fraction(30000, 1001)]


def numbered(frames):
  """A clip whose frames show their number in black and white columns."""
  bits = np.arange(frames)[:, None] >> np.arange(BITS) & 1
  shown = np.repeat(bits * 255, WIDTH // BITS, axis=1).astype(np.uint8)
  return np.broadcast_to(shown[:, None, :, None], (frames, HEIGHT, WIDTH, 3)).copy()


def numbers(clip):
  bits = clip[:, :, WIDTH // BITS // 2 :: WIDTH // BITS].mean(axis=(1, 3)) > 127
  return (bits << np.arange(BITS)).sum(axis=1).tolist()


def grey(levels, **options):
  return encode([np.full((48, 64, 3), level, np.uint8) for level in levels], **options)


def seen(found):
  """Gray levels to the next ten, which tell the frames of these tests apart."""
  return [int(round(p.pixels.mean(), -1)) for p in found]


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif", "png"])
def test_every_frame_of_what_is_written_comes_back_at_its_time(tmp_path, suffix, fps):
  path, count = tmp_path / f"a.{suffix}", 40
  write_clip(path, numbered(count), fps)
  clip, rate = read_clip(path)
  assert (numbers(clip), rate) == (list(range(count)), fps)
  times = np.arange(count) / float(fps)
  assert numbers(frames_at(path.read_bytes(), times, HEIGHT, WIDTH)) == list(range(count))
  for n in (0, 1, 13, 20, 39):
    assert numbers(frames_at(path.read_bytes(), times[n:], HEIGHT, WIDTH))[0] == n
  entry = read_entry(path, ClipShape(count, HEIGHT, WIDTH, float(fps)))
  assert (numbers(entry.frames), entry.changes) == (list(range(count)), ())


def test_a_rate_of_unusual_terms_comes_back_near(tmp_path):
  for suffix in ("png", "gif"):
    write_clip(tmp_path / f"a.{suffix}", numbered(4), Fraction(0.3))  # 54 bits
    assert read_clip(tmp_path / f"a.{suffix}")[1] == Fraction(3, 10)


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize(("form", "codec"), [("matroska", "libx264"), ("flv", "flv"), ("mpegts", "libx264"), ("avi", "mpeg4")])
def test_other_containers(form, codec, fps):
  """Milliseconds, 1/90000 seconds, and frames for a clock, as the muxer rounds them."""
  file = io.BytesIO()
  with av.open(file, "w", format=form) as container:
    stream = container.add_stream(codec, rate=fps)
    stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
    for n, shown in enumerate(numbered(32)):
      frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
      frame.pts, frame.time_base = n, 1 / Fraction(fps)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  data = file.getvalue()
  assert numbers(frames_at(data, np.arange(32) / float(fps), HEIGHT, WIDTH)) == list(range(32))
  with av.open(io.BytesIO(data)) as container:  # the times are the file's own
    stream = container.streams.video[0]
    listed = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
  want = [float((pts - listed[0]) * stream.time_base) for pts in listed]
  np.testing.assert_allclose([p.time for p in decode.pictures(data)], want, atol=1e-9)


def test_a_gif_of_others_has_the_simplest_rate_that_explains_its_times(tmp_path):
  for rate in (3, 12, 24, 7.5):
    ticks = np.diff([round(100 * n / rate) for n in range(33)])
    frames = [Image.fromarray(shown) for shown in numbered(32)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[10 * int(t) for t in ticks])
    assert read_clip(tmp_path / "a.gif")[1] == rate


@pytest.mark.parametrize(("form", "codec"), [("ogg", "libvpx"), ("matroska", "libvpx"), ("avi", "mpeg4"), ("nut", "ffv1")])
def test_packets_of_no_bytes_show_the_picture_before_them(form, codec):
  """As Theora writes repeated frames, in the middle and at the end."""
  file = io.BytesIO()
  with av.open(file, "w", format=form) as container:
    stream = container.add_stream(codec, rate=10, options={"g": "0" if codec == "libvpx" else "1"})  # each frame stands by itself
    stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
    packets = []
    for n in range(12):
      frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * n, np.uint8), format="rgb24")
      frame.pts, frame.time_base = n, Fraction(1, 10)
      packets += stream.encode(frame)
    for n, packet in enumerate([*packets, *stream.encode(None)]):
      if n in (3, 4, 10, 11):
        empty = av.Packet(b"")
        empty.pts, empty.dts, empty.duration, empty.time_base, empty.stream = n, n, packet.duration, packet.time_base, stream
        packet = empty
      container.mux(packet)
  found = list(decode.pictures(file.getvalue(), strict=True))
  assert seen(found) == [0, 20, 40, 100, 120, 140, 160, 180]
  np.testing.assert_allclose([p.time for p in found], [0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9], atol=2e-3)
  assert found[-1].end == pytest.approx(1.2, abs=2e-3)


@pytest.mark.parametrize(("form", "codec"), [("mpegts", "libx264"), ("mpegts", "mpeg2video"), ("mpeg", "mpeg2video")])
def test_a_second_part_whose_clock_begins_anew(form, codec):
  rate = 25
  parts = [grey(levels, codec=codec, form=form, rate=rate) for levels in (range(20, 120, 10), range(120, 220, 10))]
  data = b"".join(parts)
  found = list(decode.pictures(data))
  assert seen(found) == list(range(20, 220, 10))
  np.testing.assert_allclose([p.time for p in found], np.arange(20) / rate, atol=1e-3)
  for n in (3, 9, 10, 17):
    assert round(frames_at(data, np.array([n / rate]), 48, 64).mean(), -1) == 20 + 10 * n


def test_the_stream_that_is_flagged_as_default():
  file = io.BytesIO()
  with av.open(file, "w", format="matroska") as container:
    streams = [container.add_stream("ffv1", rate=10) for _ in range(3)]
    for n, stream in enumerate(streams):
      stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
      stream.disposition = Disposition.default if n == 1 else Disposition(0)
    for n in range(3):
      for k, stream in enumerate(streams):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 50 + 50 * k, np.uint8), format="rgb24")
        frame.pts, frame.time_base = n, Fraction(1, 10)
        container.mux(stream.encode(frame))
  assert seen(decode.pictures(file.getvalue())) == [100] * 3


@pytest.mark.parametrize("sound_alone", [False, True])
def test_a_cover_is_no_clip(sound_alone):
  file = io.BytesIO()
  with av.open(file, "w", format="mp4") as container:
    cover = container.add_stream("mjpeg", rate=1)
    cover.height, cover.width, cover.pix_fmt, cover.disposition = 480, 640, "yuvj420p", Disposition.attached_pic
    other = container.add_stream("aac", rate=8000, layout="mono") if sound_alone else container.add_stream("libx264", rate=10)
    if not sound_alone:
      other.height, other.width, other.pix_fmt = 48, 64, "yuv420p"
    container.mux(cover.encode(av.VideoFrame.from_ndarray(np.full((480, 640, 3), 200, np.uint8), format="rgb24")))
    for n in range(3):
      if sound_alone:
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 1024 * n
      else:
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 80, np.uint8), format="rgb24")
        frame.pts, frame.time_base = n, Fraction(1, 10)
      container.mux(other.encode(frame))
    container.mux(other.encode(None))
  if sound_alone:
    with pytest.raises(UserError, match="holds no pictures but a cover"):
      list(decode.pictures(file.getvalue()))
  else:
    assert seen(decode.pictures(file.getvalue())) == [80] * 3


NOISE = [np.random.default_rng(n).integers(0, 200, (48, 64, 3)).astype(np.uint8) for n in range(12)]


def noise(form):
  """A clip of 1.2 s that does not say how long it is."""
  if form in ("gif", "png"):
    file = io.BytesIO()
    first, *others = map(Image.fromarray, NOISE)
    first.save(file, format=form, save_all=True, append_images=others, duration=100)
    return file.getvalue()
  file = io.BytesIO()
  options = {"matroska": {"live": "1"}, "mp4": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}}.get(form, {})
  codec = {"ogg": "libvpx", "mpeg": "mpeg2video", "nut": "ffv1"}.get(form, "libx264")
  with av.open(file, "w", format=form, options=options) as container:
    stream = container.add_stream(codec, rate=25 if form == "mpeg" else 10, options={"g": "4"})
    stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
    for n, shown in enumerate(NOISE):
      frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
      frame.pts, frame.time_base = n, Fraction(1, 25 if form == "mpeg" else 10)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return file.getvalue()


@pytest.mark.parametrize("form", ["matroska", "mpegts", "mp4", "gif", "png", "ogg", "mpeg", "nut"])
def test_a_cut_file_says_where_it_ends(form):
  data = noise(form)
  with warnings.catch_warnings():
    warnings.simplefilter("error")  # of a whole one nothing is said
    assert len(list(decode.pictures(data, strict=True))) == 12
  for share in (0.7, 0.83, 0.9, 0.985):
    cut = data[: int(share * len(data))]
    with pytest.warns(UserWarning, match=r"^a film breaks off after [0-9.]+ s: the rest of the file is missing$") as said:
      found = list(decode.pictures(cut, name="a film"))
    assert 1 <= len(found) <= 12 and [str(one.message) for one in said] == [str(said[0].message)]
    assert float(str(said[0].message).split()[5]) == pytest.approx(found[-1].end, abs=1e-3)
    with pytest.raises(UserError, match="it breaks off after"):
      examine(cut, "it")
