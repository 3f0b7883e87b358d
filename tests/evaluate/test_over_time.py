"""Colours that shift and drift, against inputs that they come from; and what moves, along its exact flow."""

import numpy as np
import pytest

from ivid.evaluate.over_time import colour_shift, warping_errors
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.scene import CLIP_SECONDS, make_scene


def clips(frames=6):
  """An input, and the same twice as large."""
  small = np.random.default_rng(0).integers(60, 180, (frames, 8, 10, 3)).astype(np.uint8)
  return small, small.repeat(2, 1).repeat(2, 2)


def test_the_input_itself_is_not_off():
  small, _ = clips()
  assert set(colour_shift(small, small).values()) == {0.0}


def test_a_shift_of_all_frames_is_no_drift():
  small, _ = clips()
  found = colour_shift(small + np.array([3, 0, 0], np.uint8), small)
  assert found["mean"] == pytest.approx(np.sqrt(9 / 3))
  assert found["mean_drift"] < 1e-12 and found["deviation"] < 1e-12 and found["deviation_drift"] < 1e-12


def test_a_shift_that_grows_is_drift():
  small, _ = clips()
  made = small + np.arange(6, dtype=np.uint8)[:, None, None, None] * np.uint8(2)
  found = colour_shift(made, small)
  assert found["mean_drift"] == pytest.approx(np.std(2 * np.arange(6)))
  assert found["mean"] == pytest.approx(np.sqrt(np.square(2 * np.arange(6)).mean()))
  assert found["deviation"] < 1e-12 and found["deviation_drift"] < 1e-12


def test_contrast_that_is_lost_is_of_the_deviation():
  small, _ = clips()
  middle = small.mean((1, 2), keepdims=True)
  share = np.linspace(1, 0.5, 6)[:, None, None, None]
  found = colour_shift(np.round(middle + share * (small - middle)).astype(np.uint8), small)
  assert found["mean"] < 0.1 and found["deviation"] > 5 and found["deviation_drift"] > 3


def test_a_larger_clip_is_shrunk_first():
  """Twice as large: shrinking by a triangle takes some of the deviation, much the same in all frames, and moves no mean."""
  small, large = clips()
  found = colour_shift(large, small)
  assert found["mean"] < 0.5 and found["mean_drift"] < 0.5 and found["deviation_drift"] < 2
  assert colour_shift(large + np.uint8(5), small)["mean"] == pytest.approx(5, abs=0.5)


def drawn(index, frames=16):
  scene = make_scene(0, index, two_objects=index % 2 == 0)
  fps = frames / CLIP_SECONDS
  return scene, fps, rounded(draw(scene, times=np.arange(frames) / fps, height=32, width=54))


@pytest.mark.parametrize("index", range(4))
def test_a_drawn_clip_follows_its_flow(index):
  """Its error is that of rounding; out of order, shaken by a pixel, or with a flickering object it is larger."""
  scene, fps, clip = drawn(index)
  rng = np.random.default_rng(index)
  flicker = clip.astype(np.int16)
  flicker[::2][(clip != clip[:, :1, :1])[::2]] += 9  # all that is not of the corner's colour
  made = dict(
    exact=clip,
    shuffled=clip[rng.permutation(len(clip))],
    shaken=np.stack([np.roll(frame, rng.integers(-1, 2, 2), (0, 1)) for frame in clip]),
    flickering=np.clip(flicker, 0, 255).astype(np.uint8),
    noisy=np.clip(clip + rng.normal(0, 4, clip.shape), 0, 255).astype(np.uint8),
  )
  found = warping_errors(made, scene, fps=fps)
  assert found.pop("exact") < 0.3 and min(found.values()) > 1.0, found


def test_another_speed_is_no_right_flow():
  """An object that arrives a quarter of a second late leaves its place to the background."""
  scene = next(scene for scene, *_ in map(drawn, range(50)) if scene.velocity[0].any() and not scene.present[1])
  late = rounded(draw(scene, times=np.arange(16) / 3 * 0.8, height=32, width=54))
  assert warping_errors({"late": late}, scene, fps=3.0)["late"] > 3


def test_noise_has_the_error_of_two_draws():
  """Of independent noise on a background alone: the root of 2, times its deviation."""
  scene = make_scene(0, 1)._replace(middle=np.full(2, 1e-3, np.float32))  # an object of less than a pixel
  clip = np.random.default_rng(0).normal(128, 5, (8, 32, 54, 3)).round().astype(np.uint8)
  assert warping_errors({"noise": clip}, scene, fps=3.0)["noise"] == pytest.approx(5 * np.sqrt(2), rel=0.03)
