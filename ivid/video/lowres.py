"""The clip a super-resolution stage is conditioned on (Imagen Video, section 2.2): one definition for loss and sampling."""

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
  """Low-resolution clip [B, t, h, w, C] of `x` [B, T, H, W, C], a clip at the stage's output or a crop of one.

  Sizes follow the ratio input / output. Time keeps every k-th frame (frame k of a clip at rate f is the picture at k / f seconds),
  space is resized by `lowres.shrink`. Numpy gives numpy, jax gives jax.

  Raises:
    UserError: a size of `x` that the ratio does not take to a whole number.
  """
  frames = _scaled("frames", x.shape[1], lowres.input.frames, output.frames)
  assert x.shape[1] % frames == 0, (x.shape, frames)  # StageSpec has whole multiples alone
  return shrink_pictures(x[:, :: x.shape[1] // frames], lowres, output)


def shrink_pictures(x: Any, lowres: LowresSpec, output: ClipShape) -> Any:
  """`shrink` of independent pictures packed as the frames of `x` [B, T, H, W, C]: in space alone, to [B, T, h, w, C].

  A temporal stage's packed pictures are so each conditioned on themselves: no frame of one is missing.

  Raises:
    UserError: as `shrink`.
  """
  height, width = (
    _scaled(name, x.shape[axis], getattr(lowres.input, name), getattr(output, name)) for axis, name in ((2, "height"), (3, "width"))
  )
  return resize(x, height, width, lowres.shrink)


def grow(small: Any, *, frames: int, height: int, width: int, time_fill: TimeFill) -> Any:
  """Conditioning clip [B, T, H, W, C] from the low-resolution `small` [B, t, h, w, C]: bilinear in space, then `time_fill`.

  REPEAT shows each frame T / t times; BLANK puts frame i at i T / t and zeros elsewhere; LINEAR blends from each frame to the next, the
  last one stays.

  Raises:
    UserError: T is no multiple of t.
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

  The first frame and the number of frames are multiples of T / t.
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
  """The clip [B, t, ...] with its last frame once more."""
  xp = jnp if isinstance(clip, jax.Array) else np
  return xp.concatenate([clip, clip[:, -1:]], axis=1)


def _fill(clip: Any, k: int, time_fill: TimeFill) -> Any:
  """[B, t, H, W, C] -> [B, k t, H, W, C]; LINEAR reads one frame more than t."""
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
