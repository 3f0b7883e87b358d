"""FFmpeg containers through PyAV: H.264 and VP9 out, anything in. Colours are tagged as BT.709, so that players agree."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from ivid.media.files import from_comment
from ivid.spec.errors import UserError

SMALL_PIXELS = 192 * 320  # up to this size a frame gets the better quality: a few kilobytes buy clean edges
SMALL_CRF, LARGE_CRF = 12, 18
MAX_DENOMINATOR = 1001  # of a frame rate: 24000/1001 and its like are exact
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP


def write_mp4(path: os.PathLike, clip: np.ndarray, rate: Fraction, *, comment: str, crf: int | None) -> None:
  """H.264, index in front of the pictures so that browsers start at once."""
  options = {"crf": _crf(path, clip, crf, 51), "preset": "medium"}
  _write(path, clip, rate, codec="libx264", codec_options=options, comment=comment, container_options={"movflags": "+faststart"})


def write_webm(path: os.PathLike, clip: np.ndarray, rate: Fraction, *, comment: str, crf: int | None) -> None:
  """VP9 at constant quality."""
  options = {"crf": _crf(path, clip, crf, 63), "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
  _write(path, clip, rate, codec="libvpx-vp9", codec_options=options, comment=comment, container_options={})


def read(path: str | os.PathLike, max_frames: int | None) -> tuple[np.ndarray, Fraction]:
  """Frames uint8 [T, H, W, 3] and frames per second of the first video stream, turned as its display matrix says.

  Raises:
    UserError: unreadable file, or no picture in it.
  """
  with _open(path) as container:
    stated, resolution = container.streams.video[0].average_rate, container.streams.video[0].time_base
    found = list(itertools.islice(_decode(container, path), max_frames))
  return np.stack([picture for _, _, picture in found]), _rate([time for time, _, _ in found], stated, resolution)


def frames(path: str | os.PathLike) -> Iterator[tuple[float, float, np.ndarray]]:
  """Every frame of the first video stream with the seconds at which it appears, from 0 on, and for which it is shown.

  One frame is in memory at a time. A file that does not say how long its frames last has them as long as the one before.

  Raises:
    UserError: unreadable file, or no picture in it.
  """
  with _open(path) as container:
    seconds = 1 / float(container.streams.video[0].average_rate or 1)
    first = last = None
    for time, stated, picture in _decode(container, path):
      if time is None:
        time = 0.0 if last is None else first + last + seconds
      first = time if first is None else first
      time = max(time - first, 0.0 if last is None else last)
      if stated is None and last is not None and time > last:
        seconds = time - last
      last = time
      yield time, stated or seconds, picture


def _decode(container: av.container.InputContainer, path: str | os.PathLike) -> Iterator[tuple[float | None, float | None, np.ndarray]]:
  """(time, duration, picture) as the container states them."""
  stream = container.streams.video[0]
  stream.thread_type = "AUTO"
  count = 0
  try:
    for frame in container.decode(stream):
      duration = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else None
      yield frame.time, duration, _picture(frame)
      count += 1
  except av.FFmpegError as error:
    raise UserError(f"{path} breaks off after {count} frames: {error.strerror}") from None
  if not count:
    raise UserError(f"{path} holds no pictures")


def _picture(frame: av.VideoFrame) -> np.ndarray:
  """uint8 [H, W, 3], upright; what is transparent lies on black."""
  if any(component.is_alpha for component in frame.format.components):
    rgba = frame.to_ndarray(format="rgba", interpolation=EXACT).astype(np.uint16)
    picture = ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)
  else:
    picture = frame.to_ndarray(format="rgb24", interpolation=EXACT)
  return np.ascontiguousarray(np.rot90(picture, frame.rotation // 90))


def read_comment(path: str | os.PathLike) -> dict | None:
  """Metadata of a container's comment tag."""
  with _open(path) as container:
    tags = {key.lower(): value for key, value in container.metadata.items()}
  return from_comment(tags.get("comment"))


def _write(
  path: os.PathLike,
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
    stream = container.add_stream(codec, rate=rate, options=codec_options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.time_base = 1 / rate
    context = stream.codec_context
    context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    for i, picture in enumerate(clip):
      container.mux(stream.encode(_frame(picture, i, rate)))
    container.mux(stream.encode(None))


def _frame(picture: np.ndarray, index: int, rate: Fraction) -> av.VideoFrame:
  """One RGB picture as 4:2:0 BT.709 of limited range, shown at index / rate for one frame's time."""
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
  frame.pts, frame.time_base, frame.duration = index, 1 / rate, 1
  return frame


def _open(path: str | os.PathLike) -> av.container.InputContainer:
  try:
    container = av.open(os.fspath(path))
  except (av.FFmpegError, OSError) as error:
    raise UserError(f"{path} is no clip that can be read: {error.strerror}") from None
  if not container.streams.video:
    container.close()
    raise UserError(f"{path} holds no pictures")
  return container


def _rate(times: list[float | None], stated: Fraction | None, resolution: Fraction) -> Fraction:
  """Frames per second: the simplest rate that explains the frames' times to the container's resolution."""
  if len(times) < 2 or None in times or times[-1] <= times[0]:
    return Fraction(stated or 1)
  mean = Fraction((len(times) - 1) / (times[-1] - times[0])).limit_denominator(MAX_DENOMINATOR)
  for rate in (Fraction(stated or mean), Fraction(round(mean)), Fraction(round(mean * 1001), 1001)):
    if rate > 0 and all(abs(t - times[0] - i / rate) <= 1.01 * resolution for i, t in enumerate(times)):
      return rate
  return mean


def _crf(path: os.PathLike, clip: np.ndarray, crf: int | None, worst: int) -> str:
  if crf is None:
    crf = SMALL_CRF if clip.shape[1] * clip.shape[2] <= SMALL_PIXELS else LARGE_CRF
  if not 0 <= crf <= worst:
    raise UserError(f"crf={crf}: a {pathlib.Path(path).suffix} takes 0 (best) to {worst}")
  return str(crf)
