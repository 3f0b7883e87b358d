"""Converts a decoded frame for display: upright, in RGB and BT.709."""

from __future__ import annotations

import functools
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from ivid.media import hdr
from ivid.media.picture import Colour, over

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
HD_ROWS = 720  # a clip without colour tags is taken, as players do, for BT.709 from so many rows on, else for BT.601
UNSPECIFIED = 2  # H.273


class Turn(NamedTuple):
  """How to set a picture upright: exchange rows and columns, then mirror left to right, and top to bottom."""

  quarter: bool = False
  left: bool = False
  up: bool = False


def turn_of(frame: av.VideoFrame) -> Turn:
  """Reads the display matrix, which moves (x, y) to (a x + c y, b x + d y). Files only have multiples of a quarter turn."""
  data = frame.side_data.get(SideData.DISPLAYMATRIX)  # pyright: ignore[reportArgumentType, reportCallIssue]  PyAV's stub knows the names alone
  if data is None:
    return Turn()
  a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
  return Turn(True, c < 0, b < 0) if abs(b) > abs(a) else Turn(False, a < 0, d < 0)


def upright(frame: av.VideoFrame, turn: Turn, background: Colour, reformatter: VideoReformatter) -> np.ndarray:
  """uint8 [H, W, 3]: a frame set upright by `turn`, over `background` where it is transparent."""
  picture = _rgb(frame, background, reformatter)
  if turn.quarter:
    picture = picture.swapaxes(0, 1)
  return picture[:: -1 if turn.up else 1, :: -1 if turn.left else 1]


def _rgb(frame: av.VideoFrame, background: Colour, reformatter: VideoReformatter) -> np.ndarray:
  """uint8 [H, W, 3] in BT.709."""
  converted = functools.partial(reformatter.reformat, frame, interpolation=EXACT, src_colorspace=_colourspace(frame))
  if any(component.is_alpha for component in frame.format.components):
    return over(converted(format="rgba").to_ndarray(), background)
  if hdr.is_wide(frame.color_trc, frame.color_primaries):
    return hdr.to_bt709(converted(format="rgb48le").to_ndarray(), frame.color_trc, frame.color_primaries)
  return converted(format="rgb24").to_ndarray()


def _colourspace(frame: av.VideoFrame) -> Colorspace | None:
  """The colour space for which an untagged frame's YUV is taken."""
  if frame.colorspace != UNSPECIFIED:
    return None
  return Colorspace.ITU709 if frame.height >= HD_ROWS else Colorspace.ITU601
