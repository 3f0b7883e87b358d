"""The clip that conditions a super-resolution stage (Imagen Video, section 2.2), defined once for the loss and for sampling."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.stage import Filter, LowresSpec, TimeFill
from ivid.video.resize import resize, resize_window


def shrink(x: Any, lowres: LowresSpec, output: ClipShape) -> Any:
  """The low-resolution clip [B, t, h, w, C] of `x` [B, T, H, W, C], which has the stage's output size or is a crop of such a clip.

  Sizes follow the ratio input / output. In time, every k-th frame is kept (frame k of a clip at rate f is the picture at k / f seconds);
  in space, `lowres.shrink` resizes. NumPy arrays give NumPy arrays, JAX arrays give JAX arrays.

  Raises:
    UserError: a size of `x` that the ratio does not take to a whole number.
  """
  frames = _scaled("frames", x.shape[1], lowres.input.frames, output.frames)
  assert x.shape[1] % frames == 0, (x.shape, frames)  # StageSpec allows whole multiples only
  return shrink_pictures(x[:, :: x.shape[1] // frames], lowres, output)


def shrink_pictures(x: Any, lowres: LowresSpec, output: ClipShape) -> Any:
  """`shrink` for independent pictures packed as the frames of `x` [B, T, H, W, C]: only in space, to [B, T, h, w, C].

  In a temporal stage, each packed picture is thus conditioned on itself, since a picture lacks no frames.

  Raises:
    UserError: as `shrink`.
  """
  height, width = (
    _scaled(name, x.shape[axis], getattr(lowres.input, name), getattr(output, name)) for axis, name in ((2, "height"), (3, "width"))
  )
  return resize(x, height, width, lowres.shrink)


def grow(small: Any, *, frames: int, height: int, width: int, time_fill: TimeFill) -> Any:
  """The conditioning clip [B, T, H, W, C] from the low-resolution `small` [B, t, h, w, C]: bilinear in space, then `time_fill`.

  REPEAT shows each frame T / t times; BLANK puts frame i at i T / t and zeros elsewhere; LINEAR blends from each frame to the next, and
  holds the last one.

  Raises:
    UserError: T is not a multiple of t.
  """
  t = small.shape[1]
  if frames % t:
    raise UserError(f"cannot spread {t} frames over {frames}: expected a multiple of {t}, such as {max(1, round(frames / t)) * t}")
  if time_fill is TimeFill.LINEAR:
    small = _one_more(small)
  return _fill(resize(small, height, width, Filter.TRIANGLE), frames // t, time_fill)


def grow_window(
  small: jax.Array, origin: jax.Array, window: tuple[int, int, int], *, frames: int, height: int, width: int, time_fill: TimeFill
) -> jax.Array:
  """The part of grow(small, ...) that starts at `origin` (frame, row, column; may be traced) and has the sizes `window`.

  The first frame and the number of frames must be multiples of T / t.
  """
  k = frames // small.shape[1]
  assert frames % small.shape[1] == 0 and window[0] % k == 0, (small.shape, frames, window)
  count = window[0] // k
  if time_fill is TimeFill.LINEAR:
    small, count = _one_more(small), count + 1
  part = jax.lax.dynamic_slice_in_dim(small, origin[0] // k, count, 1)
  part = resize_window(part, -3, height, Filter.TRIANGLE, start=origin[1], length=window[1])
  part = resize_window(part, -2, width, Filter.TRIANGLE, start=origin[2], length=window[2])
  return _fill(part, k, time_fill)


def _one_more(clip: Any) -> Any:
  """The clip [B, t, ...] with its last frame repeated once."""
  xp = jnp if isinstance(clip, jax.Array) else np
  return xp.concatenate([clip, clip[:, -1:]], axis=1)


def _fill(clip: Any, k: int, time_fill: TimeFill) -> Any:
  """[B, t, H, W, C] -> [B, k t, H, W, C]; LINEAR reads one more frame than t."""
  xp = jnp if isinstance(clip, jax.Array) else np
  match time_fill:
    case TimeFill.REPEAT:
      return clip if k == 1 else xp.repeat(clip, k, axis=1)
    case TimeFill.BLANK:
      parts = [clip] + [xp.zeros_like(clip)] * (k - 1)
    case TimeFill.LINEAR:
      here, ahead = clip[:, :-1], clip[:, 1:]
      parts = [here + (i / k) * (ahead - here) for i in range(k)]
  filled = xp.stack(parts, axis=2)
  return filled.reshape(filled.shape[0], -1, *clip.shape[2:])


def _scaled(name: str, size: int, small: int, big: int) -> int:
  """size x small / big; UserError unless it is a whole number above 0."""
  if size < 1 or size * small % big:
    step = big // math.gcd(small, big)
    near = max(1, round(size / step)) * step
    raise UserError(f"clip {name}={size} does not shrink by {small}/{big}: expected a multiple of {step}, such as {near}")
  return size * small // big
