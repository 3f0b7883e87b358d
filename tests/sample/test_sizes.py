"""Sizes other than a cascade's own: which can be, what is said of the others, and clips of them."""

import dataclasses

import numpy as np
import pytest

import ivid
from ivid.config import load_run
from ivid.media.clips import read_metadata
from ivid.sample.cascades import write_cascade
from ivid.sample.sizes import read_size, resized, shown_aspect
from ivid.spec.errors import UserError
from ivid.spec.stage import Norm
from tests.sample import tiny

NANO = load_run("nano:base").cascade


def nano(first, last="ssr3"):
  names = NANO.stage_names
  return NANO.stages[names.index(first) : names.index(last) + 1]


def test_all_sizes_follow_the_last():
  stages = resized(nano("tsr2"), (384, 1024))
  assert [str(spec.output) for spec in stages] == ["64x96x256@12fps", "128x96x256@24fps", "128x384x1024@24fps"]
  assert [str(spec.lowres.input) for spec in stages] == ["32x96x256@6fps", "64x96x256@12fps", "128x96x256@24fps"]
  assert [spec.unet for spec in stages] == [spec.unet for spec in nano("tsr2")]
  assert resized(nano("ssr3"), (16 * 13, 16 * 7))[0].lowres.input.size == "128x52x28"


@pytest.mark.parametrize("size", [None, (768, 1280), [768, 1280]])
def test_its_own_size_is_no_change(size):
  assert resized(nano("base"), size) == nano("base")


def test_a_side_may_stay_where_it_fits_no_stride():
  """ssr3 of another height alone: its width is its own, whatever the grid."""
  (spec,) = resized([dataclasses.replace(nano("ssr3")[0], output=dataclasses.replace(nano("ssr3")[0].output, width=1288))], (400, 1288))
  assert (spec.output.height, spec.output.width) == (400, 1288)


@pytest.mark.parametrize(
  ("stages", "size", "message"),
  [
    (nano("tsr2"), (500, 800), "size=500x800: heights of stage tsr2 are multiples of 16: expected size=512x768, the nearest"),
    (nano("ssr3"), (500, 800), "size=500x800: heights of stage ssr3 are multiples of 16: expected size=496x800, the nearest"),
    (nano("ssr3"), (1, 10**4), "size=1x10000: heights of stage ssr3 are multiples of 16: expected size=16x10000, the nearest"),
    (nano("ssr3"), (0, 800), "size=0x800: height=0: expected 1 or more"),
    (nano("ssr3"), (64, 10**6), "size=64x1000000: width=1000000: expected at most 16384"),
    (
      nano("base"),
      (512, 768),
      "size=512x768: stage base makes 24x40 alone, as its network attends over space or normalises whole frames, and stage ssr3 768x1280 "
      "of that: expected size=768x1280, or to start from a clip with start_stage=tsr2 and input",
    ),
    (
      nano("ssr2", "ssr2"),
      (96, 160),
      "size=96x160: stage ssr2 makes 192x320 alone, as its network attends over space or normalises whole frames: expected size=192x320",
    ),
    (nano("ssr3"), (1.5, 2), "size=(1.5, 2): expected (height, width) as whole numbers"),
    (nano("ssr3"), "96x96", "size='96x96': expected (height, width) as whole numbers"),
  ],
)
def test_what_cannot_be_says_the_nearest(stages, size, message):
  with pytest.raises(UserError) as error:
    resized(stages, size)
  assert str(error.value) == message


def test_an_input_that_is_no_whole_number():
  """A network of stride 1 could make 6 rows of 1.5."""
  spec = nano("ssr3")[0]
  spec = dataclasses.replace(spec, unet=dataclasses.replace(spec.unet, patch=1, levels=spec.unet.levels[:1]))
  with pytest.raises(UserError, match="size=6x8: the height of stage ssr3 is 4 of its input's: expected size=8x8, the nearest"):
    resized([spec], (6, 8))


def test_texts():
  assert read_size("768x1280") == (768, 1280) and read_size("") is None
  for text in ("768", "16x24x40", "ax3", "-1x3", "1 x 3"):
    with pytest.raises(UserError, match="expected HEIGHTxWIDTH such as 768x1280"):
      read_size(text)


def test_the_aspect_that_is_shown():
  assert shown_aspect(NANO, nano("tsr2")) == NANO.aspect
  assert shown_aspect(NANO, resized(nano("tsr2"), (256, 1024))) == pytest.approx(4.0)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
  """The tiny cascade with networks that see a part of a picture as they see the whole."""
  folder = tmp_path_factory.mktemp("cascades")
  spec = tiny.tiny_cascade(tiny.write_text(folder / "text"))
  stages = tuple(dataclasses.replace(s, unet=dataclasses.replace(s.unet, norm=Norm.RMS)) for s in spec.stages)
  spec = dataclasses.replace(spec, stages=stages)
  return ivid.load(write_cascade(folder / "tiny", spec, tiny.trained_stages(spec), folder / "text").folder)


@pytest.mark.slow
def test_clips_of_another_size(local, tmp_path, monkeypatch):
  monkeypatch.setattr("ivid.pipeline.enable_compilation_cache", lambda: None)
  made = list(local.stages("a red ball", size=(20, 12), steps=1, batch_size=1))
  assert [clip.frames.shape[1:3] for clip in made] == [(10, 6), (10, 6), (20, 12)]
  mine = np.random.default_rng(0).integers(0, 256, (2, 40, 80, 3), np.uint8)
  (clip,) = local.sample("a red ball", size=(8, 16), start="tsr1", input=mine, steps=1, batch_size=1)  # 2:1, as the input: nothing is cut
  assert clip.frames.shape == (4, 8, 16, 3) and clip.metadata["stages"][0]["size"] == "4x4x8@4fps"
  path = made[-1].save(tmp_path / "a.png")
  assert (read_metadata(path)["height"], read_metadata(path)["width"]) == (20, 12)
  for saved in (made[-1], made[0]):
    np.testing.assert_array_equal(local.repeat(saved.save(tmp_path / f"{saved.stage}.png")).frames, saved.frames)
  with pytest.raises(UserError, match="size=21x12: the height of stage ssr1|size=21x12: heights of stage base are multiples of 2"):
    local.request("a red ball", size=(21, 12))
