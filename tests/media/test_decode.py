"""What files show, whatever they say of their pictures: turned, mirrored, interlaced, at uneven times, HLG, transparent, animated."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Interpolation
from PIL import Image

from ivid.media.clips import write_clip
from ivid.media.decode import pictures
from ivid.spec.errors import UserError

HEIGHT, WIDTH = 48, 64
RED, BLUE, GRAY = (200, 30, 30), (30, 30, 200), (120, 120, 120)


def corners():
  """Red at the top left, blue at the bottom right, on gray."""
  picture = np.full((HEIGHT, WIDTH, 3), GRAY, np.uint8)
  picture[: HEIGHT // 2, : WIDTH // 2], picture[HEIGHT // 2 :, WIDTH // 2 :] = RED, BLUE
  return picture


def encode(
  frames,
  *,
  codec="libx264",
  form="mp4",
  layout="yuv420p",
  rate=10,
  times=None,
  matrix=None,
  aspect=None,
  tags=(),
  options=None,
  container_options=None,
):
  """Bytes of a clip of these pictures, `tags` set on its codec, frame k at times[k] / 1000 seconds."""
  file = io.BytesIO()
  with av.open(file, "w", format=form, options=container_options or {}) as container:
    stream = container.add_stream(codec, rate=rate, options=options or {})
    stream.height, stream.width = frames[0].shape[:2] if isinstance(frames[0], np.ndarray) else (frames[0].height, frames[0].width)
    stream.pix_fmt, stream.time_base = layout, Fraction(1, 1000)
    if codec == "libx264":
      stream.codec_context.time_base = stream.time_base
    if aspect:
      stream.sample_aspect_ratio = aspect
    if matrix:
      stream.set_display_matrix(matrix)
    for name, value in dict(tags).items():
      setattr(stream.codec_context, name, value)
    for n, frame in enumerate(frames):
      made = (
        frame if isinstance(frame, av.VideoFrame) else av.VideoFrame.from_ndarray(frame, format="rgba" if frame.shape[2] == 4 else "rgb24")
      )
      made.pts, made.time_base = (times[n] if times else n * 1000 // rate), Fraction(1, 1000)
      container.mux(stream.encode(made))
    container.mux(stream.encode(None))
  return file.getvalue()


def matrix(a, b, c, d):
  return [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]


def near(pixel, colour, by=8):
  return np.abs(pixel.astype(int) - colour).max() <= by


@pytest.mark.parametrize(
  ("abcd", "red_at", "blue_at"),
  [
    ((1, 0, 0, 1), (0, 0), (-1, -1)),
    ((-1, 0, 0, 1), (0, -1), (-1, 0)),  # mirrored
    ((-1, 0, 0, -1), (-1, -1), (0, 0)),  # half a turn
    ((0, 1, -1, 0), (0, -1), (-1, 0)),  # a quarter, clockwise
    ((0, -1, 1, 0), (-1, 0), (0, -1)),  # a quarter, the other way
    ((0, 1, 1, 0), (0, 0), (-1, -1)),  # mirrored about the diagonal
  ],
)
def test_turned_and_mirrored(abcd, red_at, blue_at):
  (picture, *_) = pictures(encode([corners()] * 3, matrix=matrix(*abcd)))
  turned = abcd[0] == 0
  assert picture.pixels.shape[:2] == (picture.height, picture.width) == ((WIDTH, HEIGHT) if turned else (HEIGHT, WIDTH))
  assert near(picture.pixels[red_at], RED) and near(picture.pixels[blue_at], BLUE)


def test_pixel_aspect_turns_with_the_picture():
  data = [encode([corners()] * 3, aspect=Fraction(4, 3), matrix=matrix(*abcd)) for abcd in ((1, 0, 0, 1), (0, 1, -1, 0))]
  upright, turned = (next(iter(pictures(clip))) for clip in data)
  assert upright.pixel_aspect == pytest.approx(4 / 3) and turned.pixel_aspect == pytest.approx(3 / 4)


def test_uneven_times_and_where_a_window_is_entered():
  """Gray levels tell frames apart; a window begins with the frame that is shown when it begins, as all frames from the start do."""
  times = [0, 40, 300, 310, 900, 1500, 1540, 2500, 2600, 3000]
  frames = [np.full((HEIGHT, WIDTH, 3), 20 * (n + 1), np.uint8) for n in range(len(times))]
  clip = encode(frames, times=times, rate=100, options={"g": "3", "bf": "2"})
  found = list(pictures(clip))
  assert [round(1000 * picture.time) for picture in found] == times
  np.testing.assert_allclose([p.seconds for p in found[:-1]], np.diff(times) / 1000, atol=1e-6)
  for start in (0.05, 0.3, 0.95, 2.55, 2.99, 9.0):
    entered = list(pictures(clip, start=start))
    first = max(n for n, time in enumerate(times) if time <= 1000 * start)
    assert [p.time for p in entered] == [p.time for p in found[first:]]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(entered, found[first:], strict=True))


def test_untagged_colours_by_size():
  """Without a tag the same codes are BT.601 below 720 rows and BT.709 from there on."""
  codes = {}
  for rows in (480, 720):
    frame = av.VideoFrame(64, rows, "yuv444p")
    for plane, value in zip(frame.planes, (81, 90, 240), strict=True):  # the red of BT.601
      plane.update(bytes([value]) * plane.buffer_size)
    codes[rows] = next(iter(pictures(encode([frame] * 2, layout="yuv444p")))).pixels[5, 5]
  assert near(codes[480], (255, 0, 0), 3) and not near(codes[720], (255, 0, 0), 12)


def hdr_clip(transfer, code):
  """Gray of a 10 bit code of limited range, tagged as BT.2020 with this transfer."""
  frame = av.VideoFrame(64, 48, "yuv420p10le")
  for plane, value in zip(frame.planes, (64 + code * 876, 512, 512), strict=True):
    plane.update(np.full(plane.buffer_size // 2, round(value), np.uint16).tobytes())
  tags = dict(color_trc=transfer, color_primaries=9, colorspace=9, color_range=ColorRange.MPEG)
  params = {"x264-params": f"colorprim=bt2020:transfer={'arib-std-b67' if transfer == 18 else 'smpte2084'}:colormatrix=bt2020nc", "qp": "0"}
  return encode([frame] * 2, layout="yuv420p10le", tags=tags, options=params)


@pytest.mark.parametrize(("transfer", "white", "peak"), [(18, 0.75, 1.0), (16, 0.58, 0.75)])
def test_high_dynamic_range_is_not_dim(transfer, white, peak):
  """The code of reference white, 203 cd/m^2, is nearly white; 1000 cd/m^2 is white; gray stays gray, and darker codes are darker."""
  shown = [next(iter(pictures(hdr_clip(transfer, code)))).pixels[5, 5].astype(int) for code in (0.0, white / 2, white, peak)]
  assert all(np.ptp(pixel) <= 2 for pixel in shown)
  black, middle, nearly, brightest = (pixel.mean() for pixel in shown)
  assert black <= 2 and 60 < middle < 190 and 235 <= nearly <= 252 and brightest >= 253


def test_transparent_pictures_lie_on_a_colour():
  rgba = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
  rgba[:, : WIDTH // 2] = (*RED, 255)
  rgba[:, WIDTH // 2 :, 3] = 128
  file = io.BytesIO()
  Image.fromarray(rgba).save(file, format="PNG")
  (still,) = pictures(file.getvalue(), background=(0, 200, 100))
  assert near(still.pixels[0, 0], RED, 0) and near(still.pixels[0, -1], (0, 100, 50), 1)
  webm = encode([rgba] * 2, codec="libvpx-vp9", form="webm", layout="yuva420p")
  assert next(iter(pictures(webm))).pixels.shape == (HEIGHT, WIDTH, 3)
  mov = encode([rgba] * 2, codec="qtrle", form="mov", layout="argb")
  shown = next(iter(pictures(mov, background=(0, 200, 100)))).pixels
  assert near(shown[0, 0], RED, 2) and near(shown[0, -1], (0, 100, 50), 2)


@pytest.mark.parametrize("form", ["WEBP", "GIF", "PNG"])
def test_animations_with_their_own_times(form):
  frames = [Image.fromarray(np.full((HEIGHT, WIDTH, 3), level, np.uint8)) for level in (40, 120, 200)]
  file = io.BytesIO()
  frames[0].save(file, format=form, save_all=True, append_images=frames[1:], duration=[50, 200, 100], loop=0)
  found = list(pictures(file.getvalue()))
  assert [round(p.pixels.mean(), -1) for p in found] == [40, 120, 200]
  np.testing.assert_allclose([(p.time, p.seconds) for p in found], [(0, 0.05), (0.05, 0.2), (0.25, 0.1)], atol=1e-9)


def test_stills_of_other_kinds():
  """An orientation in EXIF, 16 bits of gray, a palette."""
  file = io.BytesIO()
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned clockwise
  Image.fromarray(corners()).save(file, format="JPEG", quality=95, exif=exif)
  (turned,) = pictures(file.getvalue())
  assert turned.pixels.shape == (WIDTH, HEIGHT, 3) and near(turned.pixels[2, -3], RED, 12)
  deep, palette = io.BytesIO(), io.BytesIO()
  Image.fromarray(np.full((8, 8), 30_000, np.uint16)).save(deep, format="PNG")
  Image.fromarray(corners()).quantize(4).save(palette, format="PNG")
  assert next(iter(pictures(deep.getvalue()))).pixels[0, 0].tolist() == [116] * 3
  assert near(next(iter(pictures(palette.getvalue()))).pixels[0, 0], RED, 2)


def test_interlaced_clips_lose_their_combs():
  """A bar that moves between the two fields of a frame: fields are not left woven."""
  frames = []
  for n in range(6):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for field in (0, 1):
      at = 8 * n + 4 * field
      picture[field::2, at : at + 8] = 255
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p", interpolation=Interpolation.BICUBIC)
    frames.append(frame)
  clip = encode(frames, codec="mpeg2video", form="mpegts", rate=25, options={"flags": "+ildct+ilme", "qscale": "2", "g": "1", "top": "1"})
  shown = list(pictures(clip))
  assert len(shown) == 6
  combs = [np.abs(np.diff(p.pixels[..., 0].astype(int), axis=0)).mean() for p in shown[1:-1]]
  assert max(combs) < 8, combs  # woven: 32


@pytest.mark.parametrize("cut", [0.5, 0.97])
@pytest.mark.parametrize("form", ["mp4", "webm"])
def test_a_clip_that_breaks_off_is_damaged(tmp_path, form, cut):
  rng = np.random.default_rng(0)
  write_clip(tmp_path / f"a.{form}", rng.integers(0, 256, (20, HEIGHT, WIDTH, 3)).astype(np.uint8), 10)
  data = (tmp_path / f"a.{form}").read_bytes()
  with pytest.raises(UserError, match="a film is damaged after|a film breaks off: it has"):
    for picture in pictures(data[: int(cut * len(data))], name="a film"):
      assert picture.height == HEIGHT
  assert len(list(pictures(data))) == 20


@pytest.mark.parametrize(
  ("data", "said"), [(b"nothing of the kind", "is no clip that can be read"), (b"\x89PNG\r\n\x1a\nno more", "is no picture|is damaged")]
)
def test_what_is_no_film(data, said):
  with pytest.raises(UserError, match=said):
    list(pictures(data))
