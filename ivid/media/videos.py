"""Clips as H.264 and VP9 through PyAV. Colours are tagged as BT.709, so that players agree."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from ivid.media.containers import open_container
from ivid.media.files import from_comment
from ivid.media.upright import EXACT
from ivid.spec.errors import UserError

SMALL_PIXELS = 192 * 320  # frames up to this size get the better quality, since a few kilobytes buy clean edges
TICKS = 90_000  # per second, for frames at uneven times
MOST_TICKS = 2**31 - 1  # of one picture
SMALL_CRF, LARGE_CRF = 12, 18


def write_mp4(path: os.PathLike[str], clip: np.ndarray, rate: Fraction, *, comment: str, crf: int | None) -> None:
  """Writes H.264, with the index before the pictures so that browsers start at once."""
  options: dict[str, Any] = {"crf": _crf(path, clip, crf, 51), "preset": "medium"}
  _write(path, clip, rate, codec="libx264", codec_options=options, comment=comment, container_options={"movflags": "+faststart"})


def write_webm(path: os.PathLike[str], clip: np.ndarray, rate: Fraction, *, comment: str, crf: int | None) -> None:
  """Writes VP9 at constant quality."""
  options: dict[str, Any] = {"crf": _crf(path, clip, crf, 63), "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
  _write(path, clip, rate, codec="libvpx-vp9", codec_options=options, comment=comment, container_options={})


def encode_mp4(shown: Iterable[tuple[float, float, np.ndarray]], rate: Fraction) -> bytes:
  """H.264 from (start in seconds, duration in seconds, uint8 [H, W, 3] with even sides), with one key frame per second.

  The same pictures give the same bytes: the encoder uses one thread.

  Raises:
    UserError: a picture is shown for longer than an MP4 can express.
  """
  file = io.BytesIO()
  tick = Fraction(1, TICKS)
  with av.open(file, "w", format="mp4") as container:
    stream, at = None, -1
    for time, seconds, picture in shown:
      if not seconds * TICKS < MOST_TICKS:
        raise UserError(f"a picture is shown for {seconds:.4g} s: expected at most {MOST_TICKS // TICKS}")
      if stream is None:
        height, width, _ = picture.shape
        options: dict[str, Any] = {
          "crf": _crf("an .mp4", picture[None], None, 51),
          "preset": "medium",
          "x264-params": f"keyint={max(1, round(rate))}:scenecut=0",
        }
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.time_base = stream.codec_context.time_base = tick  # the encoder would round times to the rate
        stream.codec_context.thread_count = 1
        _describe(stream, height, width)
      at = max(round(time / tick), at + 1)  # a file may have several pictures at the same time
      container.mux(stream.encode(_frame(picture, at, 1 / tick, round(seconds / tick))))
    container.mux(stream.encode(None))
  return file.getvalue()


def read_comment(path: str | os.PathLike[str]) -> dict | None:
  """Metadata of a container's comment tag."""
  with open_container(path, os.fspath(path)) as container:
    tags = {key.lower(): value for key, value in container.metadata.items()}
  return from_comment(tags.get("comment"))


def _write(
  path: os.PathLike[str],
  clip: np.ndarray,
  rate: Fraction,
  *,
  codec: str,
  codec_options: dict[str, str],
  comment: str,
  container_options: dict[str, str],
) -> None:
  frames, height, width, _ = clip.shape
  if height % 2 or width % 2:
    raise UserError(f"cannot write {width}x{height} as {pathlib.Path(path).suffix}: it wants even sides (.gif and .png take any)")
  with av.open(os.fspath(path), "w", options=container_options) as container:
    if comment:
      container.metadata["comment"] = comment
    stream = cast("VideoStream", container.add_stream(codec, rate=rate, options=codec_options))
    stream.time_base = 1 / rate
    _describe(stream, height, width)
    for i, picture in enumerate(clip):
      container.mux(stream.encode(_frame(picture, i, rate, 1)))
    container.mux(stream.encode(None))


def _describe(stream: VideoStream, height: int, width: int) -> None:
  stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
  context = stream.codec_context
  context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
  context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709


def _frame(picture: np.ndarray, index: int, rate: Fraction, duration: int) -> av.VideoFrame:
  """One RGB picture as 4:2:0 BT.709 of limited range, shown at index / rate for duration / rate."""
  rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
  frame = rgb.reformat(
    format="yuv420p",
    interpolation=EXACT,
    dst_colorspace=Colorspace.ITU709,
    src_color_range=ColorRange.JPEG,
    dst_color_range=ColorRange.MPEG,
    dst_color_primaries=ColorPrimaries.BT709,
    dst_color_trc=ColorTrc.BT709,
  )
  frame.pts, frame.time_base, frame.duration = index, 1 / rate, duration
  return frame


def _crf(path: str | os.PathLike[str], clip: np.ndarray, crf: int | None, worst: int) -> str:
  if crf is None:
    crf = SMALL_CRF if clip.shape[1] * clip.shape[2] <= SMALL_PIXELS else LARGE_CRF
  if not 0 <= crf <= worst:
    raise UserError(f"crf={crf}: a {pathlib.Path(path).suffix} takes 0 (best) to {worst}")
  return str(crf)
