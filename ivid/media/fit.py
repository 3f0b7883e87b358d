"""Cuts pictures around their middle to an aspect and resizes them with antialiasing. Pictures are never squeezed."""

from __future__ import annotations

import numpy as np
from PIL import Image


def fit(picture: np.ndarray, height: int, width: int, *, aspect: float = 0.0, pixel_aspect: float = 1.0) -> np.ndarray:
  """`picture` uint8 [H, W, 3] as uint8 [height, width, 3]: means over boxes if it shrinks by whole factors, else bilinear.

  Args:
    aspect: width over height to which it is cut; 0: that of `height` and `width`.
    pixel_aspect: width over height of its own pixels.
  """
  H, W, _ = picture.shape
  h, w = cut_size(H, W, aspect or width / height, pixel_aspect)
  if (h, w) == (H, W) == (height, width):
    return picture
  top, left = (H - h) / 2, (W - w) / 2
  if all(float(n).is_integer() for n in (top, left, h / height, w / width)):
    return _box_means(picture[int(top) : int(top + h), int(left) : int(left + w)], height, width)
  # Each colour is resized as floats, because Pillow rounds bytes between its two passes.
  box = (left, top, left + w, top + h)
  colours = (Image.fromarray(picture[..., c].astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR, box) for c in range(3))
  return np.clip(np.round(np.stack([np.asarray(colour) for colour in colours], axis=-1)), 0, 255).astype(np.uint8)


def _box_means(picture: np.ndarray, height: int, width: int) -> np.ndarray:
  H, W, _ = picture.shape
  rows = picture.reshape(height, H // height, W, 3).sum(axis=1, dtype=np.uint32)  # reducing along whole rows is several times as fast
  sums = rows.reshape(height, width, W // width, 3).sum(axis=2, dtype=np.uint32)
  return np.round(sums / np.float32(H // height * (W // width))).astype(np.uint8)


def cut_size(height: int, width: int, aspect: float, pixel_aspect: float = 1.0) -> tuple[float, float]:
  """Height and width, in pixels, of the largest part of a picture that has the aspect."""
  across = aspect / pixel_aspect  # pixels across per pixel down
  h, w = min(float(height), width / across), min(float(width), height * across)
  # A picture that is less than half a pixel off keeps its rows and columns as they are.
  return (float(height) if height - h < 0.5 else h), (float(width) if width - w < 0.5 else w)
