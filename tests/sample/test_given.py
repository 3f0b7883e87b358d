"""Given frames from a user's files: kept bit for bit, read as they are said, recorded, repeated, and refused in one line."""

import dataclasses

import numpy as np
import pytest

from ivid.media.clips import write_clip
from ivid.media.pictures import write_png
from ivid.sample.given import read_given
from ivid.sample.requests import Draw, make_request, repeat_request
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from tests.sample import tiny

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (20, 24, 3), np.uint8)  # of another aspect than the base's 12x8
CLIP = RNG.integers(0, 256, (5, 8, 12, 3), np.uint8)
BASE = dataclasses.replace(tiny.tiny_stage("base", tiny.Task.BASE, ClipShape(6, 8, 12, 2.0)))
READS = dataclasses.replace(BASE, unet=dataclasses.replace(BASE.unet, given=True))


@pytest.fixture
def files(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write_png("photo.png", PHOTO)
  write_clip("clip.png", CLIP, 2.0)
  write_clip("fast.png", np.repeat(CLIP, 3, axis=0), 6.0)
  write_clip("odd:1-2.png", CLIP[3:], 2.0)
  (tmp_path / "text.txt").write_text("no picture")


def read(base=BASE, **options):
  return read_given(base, trained=base.output.frames, **options)


@pytest.mark.parametrize(
  "given, frames",
  [
    ("clip.png:0-1,4", [0, 1, 4]),
    ("clip.png", [0, 1, 2, 3, 4]),
    ("fast.png:2", [2]),  # by time: frame 2 of the base is the clip's seventh
    (("clip.png", [4, 0, 4]), [0, 4]),
    ((CLIP, range(3)), [0, 1, 2]),
    (CLIP, [0, 1, 2, 3, 4]),
  ],
)
def test_which_frames_are_taken(files, given, frames):
  found = read(given=given)
  assert np.flatnonzero(found.mask).tolist() == frames
  np.testing.assert_array_equal(found.frames[frames], CLIP[frames])
  (source,) = found.record.sources
  assert source.frames == tuple(frames) and len(source.sha256) == 64 and source.changes == ()


def test_a_name_with_a_colon_is_a_name(files):
  assert np.flatnonzero(read(given="odd:1-2.png").mask).tolist() == [0, 1]
  assert np.flatnonzero(read(given="odd:1-2.png:1").mask).tolist() == [1]


def test_a_photo_is_cut_and_said(files):
  found = read(first_frame="photo.png", given="clip.png:3")
  assert np.flatnonzero(found.mask).tolist() == [0, 3]
  assert found.notes == ("given photo.png: cut 4 of 20 rows to an aspect of 1.5", "given photo.png: resized 24x16 to 12x8")
  np.testing.assert_array_equal(found.frames[0], read(first_frame=PHOTO).frames[0])


def test_the_method_follows_from_the_weights(files):
  assert [(f.record.method.value, f.record.resamplings) for f in (read(READS, given=CLIP), read(given=CLIP))] == [
    ("trained", 1),
    ("replacement", 5),
  ]
  assert read() is None and read_given(BASE, trained=4).record.sources == ()  # it goes on from its own frames


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(given="clip.png:0-x"), "--given=clip.png:0-x: cannot read the frames '0-x': expected numbers and ranges such as 0-4,12"),
    (dict(given="clip.png:"), "--given=clip.png:: cannot read the frames ''"),
    (dict(given="clip.png:3-1"), "--given=clip.png:3-1: cannot read the frames 3-1: expected 1-3"),
    (dict(given="clip.png:0-99999999999"), "frame 99999999999 is none of the base's: expected 0 to 5, or more --seconds"),
    (dict(given=("clip.png", [-1])), "frame -1 is none of the base's: expected 0 to 5"),
    (dict(given=("clip.png", [1.5])), "frame 1.5: expected a whole number"),
    (dict(given=("clip.png", [])), "given=clip.png: no frames: expected numbers"),
    (dict(given="clip.png:5"), "the clip lasts 5 frames at 2 a second and has no frame 5: expected 0 to 4"),
    (dict(given="photo.png:0-1"), "the clip lasts 1 frames at 2 a second and has no frame 1: expected 0 alone"),
    (
      dict(given=np.repeat(CLIP, 2, axis=0)),
      "leaves nothing to make: all 6 frames of stage base are given; expected fewer, such as 0-2, or",
    ),
    (dict(given="fast.png:0-4", first_frame="photo.png"), "--given=fast.png:0-4: frame 0 is given by --first_frame=photo.png too"),
    (dict(given=CLIP.astype(float)), "--given=float64 [5, 8, 12, 3]: expected uint8 [frames, height, width, 3]"),
    (dict(first_frame="nowhere.png"), "no clip at nowhere.png"),
    (dict(first_frame="text.txt"), "text.txt is no clip that can be read"),
    (dict(given="nowhere.mp4:0-2"), "no clip at nowhere.mp4"),
  ],
)
def test_what_cannot_be_given_is_one_line(files, options, message):
  with pytest.raises(UserError) as error:
    read(**options)
  assert message in str(error.value) and "\n" not in str(error.value)


def test_a_stage_with_an_input_is_given_no_frames(files, cascade):
  with pytest.raises(UserError, match="--given=clip.png: stage ssr1 starts from a clip; expected the base as the first stage"):
    make_request(cascade, Draw(("a",)), start="ssr1", first=np.zeros((4, 8, 12, 3), np.uint8), given="clip.png")


def test_kept_exactly_recorded_and_repeated(files, cascade):
  """A base of two frames that goes on for six: the given ones are in the windows that have them, whatever guidance and threshold do."""
  request = make_request(cascade, Draw(("a red ball",)), first_frame="photo.png", given="clip.png:3-4", seconds=3, batch_size=1)
  made = {clip.stage.name: clip for clip in request.run(quiet=True)}
  base = made["base"].frames
  np.testing.assert_array_equal(base[3:5], CLIP[3:5])
  np.testing.assert_array_equal(base[0], request.given.frames[0])
  metadata = request.metadata(made["ssr1"])
  assert [(s["file"], s["frames"]) for s in metadata["given"]["sources"]] == [("photo.png", [0]), ("clip.png", [3, 4])]
  again = {clip.stage.name: clip for clip in repeat_request(cascade, metadata, said_by="a.json").run(quiet=True)}
  for name, clip in made.items():
    np.testing.assert_array_equal(again[name].frames, clip.frames)
  with pytest.raises(UserError, match="a.json: given.method=trained: expected replacement, as the weights are"):
    repeat_request(cascade, metadata | {"given": metadata["given"] | {"method": "trained"}}, said_by="a.json")
  write_png("photo.png", PHOTO[::-1])
  with pytest.raises(UserError, match="photo.png is not the file that a.json was given frames of: its SHA-256 is"):
    repeat_request(cascade, metadata, said_by="a.json")
  in_memory = make_request(cascade, Draw(("a",)), first_frame=PHOTO)
  metadata = in_memory.metadata(next(in_memory.run(quiet=True)))
  with pytest.raises(UserError, match="a.json was given frames in memory: expected frames of a file"):
    repeat_request(cascade, metadata, said_by="a.json")
