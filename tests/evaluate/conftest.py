"""A small network in I3D's place."""

import jax.numpy as jnp
import pytest

from ivid.evaluate import features, i3d


@pytest.fixture
def small_network(monkeypatch):
  """Means and deviations of colours, of clips or of frames, times a parameter; in parts of 4 clips and batches of 27 frames."""

  def make(shape, *, layers, still, kernel):
    def run(params, clips):
      x, axes = jnp.asarray(clips, jnp.float32), (2, 3) if still else (1, 2, 3)
      return {layers[0]: params * jnp.concatenate([x.mean(axes), x.std(axes)], -1)}

    return run

  monkeypatch.setattr(i3d, "make_i3d", make)
  monkeypatch.setattr(i3d, "load_i3d", lambda: jnp.float32(1))
  monkeypatch.setattr(features, "PART", 4)
  monkeypatch.setattr(features, "FRAMES", 27)
