"""I3D's parts against XLA's own, and single frames against long clips that show nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.nets import i3d


def random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize(
  ("shape", "kernel", "stride"),
  [
    ((1, 9, 12, 13, 3), (7, 7, 7), (2, 2, 2)),  # all taps at once
    ((2, 5, 6, 7, 30), (3, 3, 3), (1, 1, 1)),  # a convolution for each
    ((1, 1, 6, 7, 30), (3, 3, 3), (1, 1, 1)),  # two of three taps see padding alone
    ((1, 2, 6, 7, 5), (7, 3, 3), (2, 1, 1)),
    ((1, 3, 6, 7, 5), (1, 1, 1), (1, 1, 1)),
  ],
)
def test_convolution_is_xlas(shape, kernel, stride):
  x, k = random(*shape), random(*kernel, shape[-1], 4, seed=1)
  want = i3d._native(x, k, stride=stride)
  have = i3d.conv3d(x, k, stride)
  assert have.shape == want.shape
  np.testing.assert_allclose(have, want, atol=2e-5 * float(jnp.abs(want).max()))


@pytest.mark.parametrize(
  ("window", "stride"), [((3, 3, 3), (1, 1, 1)), ((1, 3, 3), (1, 1, 1)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2))]
)
def test_pool_is_xlas(window, stride):
  x = random(2, 5, 6, 7, 3) - 5  # negative, so that padding by zeros would show
  want = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *stride, 1), "SAME")
  np.testing.assert_array_equal(i3d.max_pool(x, window, stride), want)


def test_frames_are_clips_that_never_change():
  """The middle of a long clip of one picture sees nothing of its ends."""
  layer = "MaxPool3d_3a_3x3"
  picture = random(1, 1, 20, 24, 3)
  long = picture.repeat(24, axis=1)
  params = i3d.I3D().init(jax.random.key(0), long, (layer,))["params"]

  def places(module, x):
    """The layer before it is averaged, by frames."""
    seen = []
    mean = jnp.mean
    for name, spec in i3d.TRUNK.items():
      if name in params:
        x = i3d.Unit(spec, still=module.still).apply({"params": params[name]}, x)
      else:
        x = i3d.max_pool(x, spec.window, spec.stride)
      seen.append(x)
      if name == layer:
        return mean(x, (2, 3))

  frames = i3d.I3D(still=True).apply({"params": params}, picture, (layer,))[layer]
  assert frames.shape == (1, 1, 192)
  np.testing.assert_allclose(frames[0, 0], places(i3d.I3D(), long)[0, 6], rtol=1e-4, atol=1e-5)
  assert np.abs(frames).mean() > 0.01
  assert np.abs(frames[0, 0] - places(i3d.I3D(), long)[0, 0]).max() > 1e-3  # the clip's beginning does see its end
