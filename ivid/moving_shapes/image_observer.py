"""Tells what a single picture of moving_shapes shows from its pixels: like ivid.moving_shapes.observer, without motion.

A picture is one moment of a scene, so a spinning object is turned by an unknown angle.
"""

from __future__ import annotations

import numpy as np

from ivid.moving_shapes.coverage import Layer
from ivid.moving_shapes.observer import MIN_ROWS, UNCLEAR, Observation, Seen, best_fit, cut_out, observe_layers, size_of, touched
from ivid.moving_shapes.outline_fits import fit_turned
from ivid.spec.errors import UserError

MIDDLE = 0.316  # in heights: what grows or shrinks is small up to 0.314 and large from 0.318 in the half of the clip that images show

# Some letter at some angle resembles any blot; true shapes leave 0.1 at most, even blurred and noisy ones.
LARGEST_ERROR = 0.2


def observe_image(picture: np.ndarray) -> Observation:
  """What a picture shows.

  Args:
    picture: uint8 [H, W, 3], at least MIN_ROWS rows.

  Raises:
    UserError: another type or shape, or a picture too small.
  """
  check_image(picture)
  return observe_layers(picture[None], _seen, still=True)


def check_image(picture: np.ndarray) -> None:
  """Raises UserError if `observe_image` cannot judge a picture: another type or shape, or too small."""
  if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
    raise UserError(f"picture of {picture.dtype} {list(picture.shape)}: expected uint8 [height, width, 3]")
  height, width, _ = picture.shape
  if height < MIN_ROWS or width < height:
    raise UserError(f"picture {height}x{width}: expected {MIN_ROWS} rows or more, at least as wide as high")


def _seen(layer: Layer, hidden: np.ndarray) -> Seen:
  """The object of a layer of one frame. `hidden` [1, H, W]: where others may be in front."""
  rows = hidden.shape[1]
  patch = cut_out(layer, hidden, np.ones(1), np.ones(1, bool))
  fit = best_fit(fit_turned, patch, rows, touched(layer, hidden))
  diameter = float(fit.diameter[0]) / rows
  shape = fit.shape if fit.error < LARGEST_ERROR else UNCLEAR
  return Seen(size_of(diameter, MIDDLE), layer.colour, shape, None, diameter, fit.error)
