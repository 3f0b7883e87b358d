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
  spec = i3d.TRUNK["Conv3d_1a_7x7"]
  picture = random(1, 1, 12, 10, 3)
  params = {"kernel": random(*spec.kernel, 3, spec.channels, seed=1), "bias": random(spec.channels, seed=2)}

  def layer(x, still):
    x = i3d.Unit(spec, still=still).apply({"params": params}, x)
    return i3d.max_pool(x, i3d._frame_by_frame((3, 3, 3), still), i3d._frame_by_frame((2, 2, 2), still))

  long = layer(picture.repeat(24, axis=1), False)
  frame = layer(picture, True)
  assert frame.shape == (1, 1, 3, 3, 64) and long.shape[1] == 6
  np.testing.assert_allclose(frame[0, 0], long[0, 3], rtol=1e-4, atol=1e-3)
  assert np.abs(frame[0, 0] - long[0, 5]).max() > 1  # its end does see that it ends


@pytest.mark.slow
def test_single_frames_of_the_whole_network_have_logits_and_layers():
  """Their shapes, which need no weights."""
  x = jax.ShapeDtypeStruct((2, 3, i3d.SIDE, i3d.SIDE, 3), jnp.float32)
  found, _ = jax.eval_shape(lambda x: i3d.I3D(still=True).init_with_output(jax.random.key(0), x, i3d.LAYERS), x)
  assert {name: layer.shape for name, layer in found.items()} == {
    name: (2, 3, channels)
    for name, channels in zip(
      i3d.LAYERS, (64, 64, 64, 192, 192, 256, 480, 480, 512, 512, 512, 528, 832, 832, 832, 1024, i3d.CLASSES), strict=True
    )
  }
