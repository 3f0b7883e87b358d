"""What no reader takes: playlists, pictures and clips that are too large, edited layouts; and what is held of a long clip."""

import io
import json
import pathlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ivid.media import containers, decode, picture, pictures
from ivid.media.clips import ClipFile, read_clip, read_metadata, write_clip
from ivid.media.videos import encode_mp4
from ivid.sample.entry import read_entry
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from tests.media.test_decode import encode
from tests.media.test_foreign import HEIGHT, NOISE, WIDTH, grey, noise, numbered, numbers, seen

LISTED = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n"
SCRIPT = "ffconcat version 1.0\nfile '{0}'\n"
SESSION = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("name", ["a.m3u8", "a.mp4"])
@pytest.mark.parametrize("text", [LISTED, SCRIPT, SESSION], ids=["m3u8", "ffconcat", "sdp"])
def test_what_names_other_files_is_no_clip(tmp_path, monkeypatch, text, name, in_memory):
  monkeypatch.chdir(tmp_path)
  pathlib.Path("one.ts").write_bytes(grey(range(20, 120, 10), form="mpegts"))
  pathlib.Path(name).write_text(text.format("one.ts"))
  source = pathlib.Path(name).read_bytes() if in_memory else name
  with pytest.raises(UserError, match=r"^it is (a playlist or its like, which names other files|no clip that can be read)") as error:
    list(decode.pictures(source, name="it"))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["concat:one.ts", "http:one.ts", "one%03d.ts", "file:one.ts"])
def test_a_path_is_no_address(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  pathlib.Path(name).write_bytes(grey([50] * 3, form="mpegts"))
  assert seen(decode.pictures(name)) == [50] * 3


@pytest.mark.parametrize("form", ["mp4", "matroska", "png", "gif"])
def test_a_picture_s_size_is_known_before_it_is_decoded(monkeypatch, form):
  if form in ("png", "gif"):
    file = io.BytesIO()
    Image.fromarray(NOISE[0]).save(file, format=form)
    data = file.getvalue()[:1000]  # what follows is not looked at
  else:
    data = noise(form)
  for module in (picture, containers):
    monkeypatch.setattr(module, "MAX_PIXELS", 48 * 64 - 1)
  with pytest.raises(UserError, match="it has pictures of 64x48: expected at most 3071 pixels"):
    list(decode.pictures(data, name="it"))


def test_conversions_by_bands_are_those_of_the_whole(monkeypatch):
  rgba = np.random.default_rng(0).integers(0, 256, (48, 64, 4)).astype(np.uint8)
  files = {}
  for name, shown in dict(rgba=rgba, rgb=rgba[..., :3], deep=rgba[..., 0].astype(np.uint16) * 255).items():
    file = io.BytesIO()
    Image.fromarray(shown).save(file, format="PNG")
    files[name] = file.getvalue()
  whole = {name: next(decode.pictures(data, background=(9, 99, 199))).pixels for name, data in files.items()}
  monkeypatch.setattr(picture, "BAND_PIXELS", 64 * 5)
  for name, data in files.items():
    np.testing.assert_array_equal(next(decode.pictures(data, background=(9, 99, 199))).pixels, whole[name])


def test_a_clip_in_a_file_is_read_frame_by_frame(tmp_path, monkeypatch):
  write_clip(tmp_path / "a.gif", numbered(40), 12)
  clip = ClipFile(tmp_path / "a.gif")
  assert (clip.shape, len(clip), clip.dtype, clip.ndim) == ((40, HEIGHT, WIDTH, 3), 40, np.uint8, 4)
  assert numbers(clip[[3, 17, 39]]) == [3, 17, 39] and numbers(clip[np.array([5])]) == [5] and numbers(clip[7][None]) == [7]
  monkeypatch.setattr(decode, "MAX_BYTES", 30 * HEIGHT * WIDTH * 3)
  with pytest.raises(UserError, match="a.gif has more than 30 frames of 96x32, the .* GiB that are held at once"):
    read_clip(tmp_path / "a.gif")
  assert len(read_clip(tmp_path / "a.gif", max_frames=30)[0]) == 30


def test_pictures_of_several_sizes_in_one_clip(tmp_path):
  """Two parts of a stream: the second one's are brought to the size of the first."""
  small = encode([np.full((24, 32, 3), 150, np.uint8)] * 3, form="mpegts")
  (tmp_path / "a.ts").write_bytes(grey([50] * 3, form="mpegts") + small)
  clip, _ = read_clip(tmp_path / "a.ts")
  assert clip.shape == (6, 48, 64, 3) and [round(frame.mean(), -1) for frame in clip] == [50] * 3 + [150] * 3
  np.testing.assert_array_equal(ClipFile(tmp_path / "a.ts")[range(6)], clip)


@pytest.mark.parametrize(
  "text",
  [
    "",
    "4 8 12",
    "4 8 12 6 7",
    "4 8 12 x",
    "a 8 12 6",
    "-4 8 12 6",
    "0 8 12 6",
    "4 0 12 6",
    "4.0 8 12 6",
    "4 8 12 0",
    "4 8 12 -6",
    "4 8 12 1/0",
    "4 8 12 nan",
    "4 8 12 1e400",
    "999999999 8 12 6",
    "5 8 12 6",
    "4 9 12 6",
    "4 8 13 6",
    "4 8 12 6/0",
    "9" * 5000 + " 8 12 6",
    "4 8 12 " + "9" * 5000,
    "٤ 8 12 6",
    "x" * 100_000,
    "4 8\n12 6",
  ],
)
def test_an_edited_layout_is_one_line(tmp_path, text):
  path = tmp_path / "a.png"
  write_clip(path, np.zeros((4, 8, 12, 3), np.uint8), 6)
  with Image.open(path) as image:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(pictures.LAYOUT, text)
    image.save(path, pnginfo=info)
  for reader in (read_clip, ClipFile, lambda path: read_entry(path, ClipShape(4, 8, 12, 6.0)), lambda path: list(decode.pictures(path))):
    with pytest.raises(UserError, match="its layout is") as error:
      reader(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_edited_rates_of_a_gif_are_passed_over(tmp_path):
  write_clip(tmp_path / "a.gif", numbered(8), Fraction(24000, 1001))
  data = (tmp_path / "a.gif").read_bytes()
  for text in (b"24000/0000", b"0000/00001", b"nan/\xff\xff\xff\xff\xff\xff"):
    assert len(text) == 10 and b"24000/1001" in data
    (tmp_path / "b.gif").write_bytes(data.replace(b"24000/1001", text))
    assert read_clip(tmp_path / "b.gif")[1] == 24


def test_a_clip_too_large_for_one_png_is_refused_before_it_is_made(tmp_path, monkeypatch):
  monkeypatch.setattr(pictures, "MAX_PIXELS", 9 * 8 * 12)
  with pytest.raises(UserError, match=r"9 frames of 12x8 are one picture of 1536 pixels: expected at most 864, or an \.mp4"):
    write_clip(tmp_path / "a.png", np.zeros((9, 8, 12, 3), np.uint8), 6)
  assert not list(tmp_path.iterdir())


def test_metadata_of_a_damaged_picture_is_one_line(tmp_path):
  write_clip(tmp_path / "a.png", numbered(8), 6, metadata={"prompt": "a"})
  data = (tmp_path / "a.png").read_bytes()
  assert read_metadata(tmp_path / "a.png") == json.loads('{"prompt": "a"}')
  (tmp_path / "a.png").write_bytes(data[: data.index(b"IDAT") + 20])
  with pytest.raises(UserError, match="is no picture that can be read"):
    read_metadata(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "still.png"])
def test_a_flipped_bit_in_a_png_is_never_another_picture(tmp_path, name):
  frames = np.random.default_rng(0).integers(0, 256, (1, 24, 40, 3), np.uint8)
  write_clip(tmp_path / "a.png", frames, 6)
  pictures.write_png(tmp_path / "still.png", frames[0])
  data = (tmp_path / name).read_bytes()
  assert (next(decode.pictures(data)).pixels == frames[0]).all()
  first = data.index(b"IDAT") + 4
  for place in range(first, data.index(b"IEND") - 8, 97):
    edited = bytearray(data)
    edited[place] ^= 1
    with pytest.raises(UserError, match="is damaged: its IDAT is not what was written"):
      list(decode.pictures(bytes(edited), name=name))


def test_a_table_that_says_to_be_longer_than_memory_is_damage(tmp_path):
  write_clip(tmp_path / "a.mp4", numbered(3), 6)
  data = (tmp_path / "a.mp4").read_bytes()
  (tmp_path / "a.mp4").write_bytes(data.replace(b"dref", b"stts"))
  with pytest.raises(UserError, match=r"a\.mp4 is damaged, or needs more memory than there is$"):
    read_clip(tmp_path / "a.mp4")


def test_a_picture_shown_for_longer_than_an_mp4_can_say():
  with pytest.raises(UserError, match=r"a picture is shown for 2\.4e\+04 s: expected at most 23860"):
    encode_mp4([(0.0, 24_000.0, numbered(1)[0])], Fraction(1))


def test_pictures_at_one_time_are_all_encoded():
  times = [(0.0, 0.5), (0.5, 0.0), (0.5, 0.0), (0.5, 0.5), (1.0, 0.5)]
  made = encode_mp4([(*time, picture) for time, picture in zip(times, numbered(5), strict=True)], Fraction(3))
  assert [round(picture.time, 3) for picture in decode.pictures(made)] == [0.0, 0.5, 0.5, 0.5, 1.0]
