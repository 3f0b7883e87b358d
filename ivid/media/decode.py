"""Pictures of any clip or still in order of time, upright and in BT.709: containers by PyAV, stills and animated images by Pillow.

One picture is in memory at a time, and a window of a long clip is entered by a key frame before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from PIL import Image, ImageCms, ImageOps, ImageSequence, UnidentifiedImageError

from ivid.media import hdr
from ivid.media.picture import BLACK, Colour, Picture, Source, over
from ivid.spec.errors import UserError

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
# First bytes of what Pillow opens better than FFmpeg, which knows neither animated WebP nor orientation and profiles of stills.
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"GIF8", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # what Pillow calls them
HD_ROWS = 720  # a clip that does not say what its colours are is BT.709 from so many rows on, else BT.601, as players take it
UNSPECIFIED = 2  # H.273
MAX_DENOMINATOR = 1001  # of a frame rate: 24000/1001 and its like are exact
LONGER_STREAM = 1.0  # seconds that a sound may last longer than its pictures
DEFAULT_SECONDS = 0.1  # of a frame of an animation that says 0, as browsers show it


def pictures(source: Source, *, start: float = 0.0, background: Colour = BLACK, name: str = "") -> Iterator[Picture]:
  """Pictures of a clip from the one on that is shown at `start` seconds, or the one of a still.

  A file that does not say how long its frames last has them as long as the one before.

  Args:
    source: path of a file, or its bytes.
    background: what shows through where a picture is transparent.
    name: what errors call it; empty: the path.

  Raises:
    UserError: nothing that can be read, a file that breaks off, or no picture in it.
  """
  name = name or (f"a file of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source))
  return _of_image(source, background, name) if is_image(source) else _of_container(source, start, background, name)


def read(path: str | os.PathLike, max_frames: int | None) -> tuple[np.ndarray, Fraction]:
  """Frames uint8 [T, H, W, 3] and frames per second. Errors as of `pictures`."""
  found = list(itertools.islice(pictures(path), max_frames))
  stated, resolution = Fraction(0), Fraction(1, 100)  # of GIF
  if not is_image(path):
    with open_container(path, os.fspath(path)) as container:
      stream = container.streams.video[0]
      stated, resolution = Fraction(stream.average_rate or 0), stream.time_base
  times = [picture.time for picture in found]
  seconds = found[-1].time + found[-1].seconds
  if not stated and seconds:
    stated = Fraction(len(found) / seconds).limit_denominator(MAX_DENOMINATOR)
  return np.stack([picture.pixels for picture in found]), _rate(times, stated, resolution)


def _rate(times: list[float], stated: Fraction, resolution: Fraction) -> Fraction:
  """Frames per second: the simplest rate that explains the frames' times to the container's resolution."""
  if len(times) < 2 or times[-1] <= times[0]:
    return stated or Fraction(1)
  mean = Fraction((len(times) - 1) / (times[-1] - times[0])).limit_denominator(MAX_DENOMINATOR)
  for rate in (stated or mean, Fraction(round(mean)), Fraction(round(mean * 1001), 1001)):
    if rate > 0 and all(abs(t - times[0] - i / rate) <= 1.01 * resolution for i, t in enumerate(times)):
      return rate
  return mean


def is_image(source: Source) -> bool:
  """Whether its first bytes are those of a still or an animation, which Pillow reads."""
  if isinstance(source, bytes):
    head = source[:16]
  else:
    try:
      with open(source, "rb") as file:
        head = file.read(16)
    except OSError:
      return False
  return head.startswith(SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] in (b"ftypavif", b"ftypavis")


def open_container(source: Source, name: str) -> av.container.InputContainer:
  """Raises UserError: no clip, or one without pictures."""
  try:
    # Titles in other encodings than UTF-8 are nothing against the pictures.
    container = av.open(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source), metadata_errors="replace")
  except (av.FFmpegError, OSError) as error:
    raise UserError(f"{name} is no clip that can be read: {error.strerror}") from None
  if not container.streams.video:
    container.close()
    raise UserError(f"{name} holds no pictures")
  if container.streams.video[0].codec_context is None:
    container.close()
    raise UserError(f"{name} is of a codec that is unknown here")
  return container


def _of_container(source: Source, start: float, background: Colour, name: str) -> Iterator[Picture]:
  held = turn = None
  reformatter = VideoReformatter()  # one for all, as its tables cost more than a small picture
  for time, seconds, frame, aspect in _entered(source, start, name):
    if held is not None and time > start:
      yield dataclasses.replace(held, seconds=time - held.time)  # until the next one appears
    turn = turn or _turn(frame)  # of the first one alone: a frame that was asked for it is kept until Python looks for cycles
    size = (frame.width, frame.height, 1 / aspect) if turn.quarter else (frame.height, frame.width, aspect)
    held = Picture(time, seconds, *size, functools.partial(_upright, frame, turn, background, reformatter))
  yield held


def _entered(source: Source, start: float, name: str) -> Iterator[tuple[float, float, av.VideoFrame, float]]:
  """(time, stated seconds, frame, pixel aspect) from one that appears at or before `start`."""
  if start > 0:
    with open_container(source, name) as container:
      stream = container.streams.video[0]
      if stream.start_time is not None and _seek(container, stream.start_time + int(start / stream.time_base)):
        frames = _timed(container, name, zero=float(stream.start_time * stream.time_base))
        head = next(frames, None)
        if head is not None and head[0] <= start:
          yield head
          yield from frames
          return
  with open_container(source, name) as container:  # from its beginning: there is no index, or no key frame before
    yield from _timed(container, name, zero=None)


def _seek(container: av.container.InputContainer, offset: int) -> bool:
  try:
    container.seek(offset, stream=container.streams.video[0])
  except av.FFmpegError:
    return False
  return True


def _timed(container: av.container.InputContainer, name: str, *, zero: float | None) -> Iterator[tuple[float, float, av.VideoFrame, float]]:
  """Frames with the seconds after `zero` (None: the first frame's time) at which they appear, in rising order."""
  stream = container.streams.video[0]
  gap = 1 / float(stream.average_rate or 1)
  aspect = float(stream.sample_aspect_ratio or 1)
  last, whole = None, zero is None
  for frame in _decoded(container, name, whole=whole):
    time = frame.time
    if time is None:
      time = 0.0 if last is None else zero + last + gap
    zero = time if zero is None else zero
    time = max(time - zero, 0.0 if last is None else last)
    if last is not None and time > last:
      gap = time - last
    last = time
    stated = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else gap
    yield time, stated, frame, aspect
  if whole and not _counts(container) and container.duration:  # of files that do not count their frames
    length = container.duration / av.time_base
    if length - (last + gap) > (LONGER_STREAM if len(container.streams) > 1 else 0.75 * gap):
      raise UserError(f"{name} breaks off: it has {last + gap:.3g} s of its {length:.3g} s")


def _decoded(container: av.container.InputContainer, name: str, whole: bool) -> Iterator[av.VideoFrame]:
  """Whole frames: where one is interlaced, it and those that follow are made of both fields."""
  stream = container.streams.video[0]
  stream.thread_type = "AUTO"
  stream.codec_context.options = {"err_detect": "explode"}  # else what is damaged is painted over
  graph, packets, count = None, 0, 0
  try:
    for packet in container.demux(stream):
      packets += packet.size > 0
      for frame in packet.decode():
        count += 1
        if graph is None and frame.interlaced_frame:
          graph = _deinterlacing(stream)
        yield from [frame] if graph is None else _through(graph, frame)
    yield from [] if graph is None else _through(graph, None)
  except av.FFmpegError as error:
    raise UserError(f"{name} is damaged after {count} frames: {error.strerror}") from None
  if not count:
    raise UserError(f"{name} holds no pictures")
  if whole and _counts(container) and packets < stream.frames:
    raise UserError(f"{name} breaks off: it has {packets} of its {stream.frames} frames")


def _counts(container: av.container.InputContainer) -> bool:
  """Whether the file counts its frames: an .avi counts ticks, of which some show nothing new."""
  return "mp4" in container.format.name and container.streams.video[0].frames > 0


def _deinterlacing(stream: av.video.stream.VideoStream) -> Graph:
  graph = Graph()
  graph.link_nodes(graph.add_buffer(template=stream), graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
  graph.configure()
  return graph


def _through(graph: Graph, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
  graph.push(frame)
  with contextlib.suppress(av.BlockingIOError, av.EOFError):
    while True:
      yield graph.pull()


def _rgb(frame: av.VideoFrame, background: Colour, reformatter: VideoReformatter) -> np.ndarray:
  """uint8 [H, W, 3] in BT.709."""
  converted = functools.partial(reformatter.reformat, frame, interpolation=EXACT, src_colorspace=_colourspace(frame))
  if any(component.is_alpha for component in frame.format.components):
    return over(converted(format="rgba").to_ndarray(), background)
  if hdr.is_wide(frame.color_trc, frame.color_primaries):
    return hdr.to_bt709(converted(format="rgb48le").to_ndarray(), frame.color_trc, frame.color_primaries)
  return converted(format="rgb24").to_ndarray()


def _colourspace(frame: av.VideoFrame) -> Colorspace | None:
  """What the frame's YUV is taken for where it does not say."""
  if frame.colorspace != UNSPECIFIED:
    return None
  return Colorspace.ITU709 if frame.height >= HD_ROWS else Colorspace.ITU601


class _Turn(NamedTuple):
  """How a picture is set upright: rows and columns exchanged, then mirrored left and right, and up and down."""

  quarter: bool = False
  left: bool = False
  up: bool = False


def _upright(frame: av.VideoFrame, turn: _Turn, background: Colour, reformatter: VideoReformatter) -> np.ndarray:
  picture = _rgb(frame, background, reformatter)
  if turn.quarter:
    picture = picture.swapaxes(0, 1)
  return picture[:: -1 if turn.up else 1, :: -1 if turn.left else 1]


def _turn(frame: av.VideoFrame) -> _Turn:
  """What the display matrix says: it moves (x, y) to (a x + c y, b x + d y). Whole quarters of a turn are what files have."""
  data = frame.side_data.get(SideData.DISPLAYMATRIX)
  if data is None:
    return _Turn()
  a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
  return _Turn(True, c < 0, b < 0) if abs(b) > abs(a) else _Turn(False, a < 0, d < 0)


def _of_image(source: Source, background: Colour, name: str) -> Iterator[Picture]:
  with contextlib.closing(_frames_of_image(source, background)) as found:
    while True:
      try:
        picture = next(found, None)
      except UnidentifiedImageError:
        raise UserError(f"{name} is no picture that can be read") from None
      except Image.DecompressionBombError as error:
        raise UserError(f"{name} is too large a picture: {error}") from None
      except Exception as error:  # each of Pillow's decoders has errors of its own
        raise UserError(f"{name} is damaged: {error or type(error).__name__}") from None
      if picture is None:
        return
      yield picture


def _frames_of_image(source: Source, background: Colour) -> Generator[Picture]:
  with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
    # Other formats have second pictures too, such as depth in a phone's JPEG, or further pages.
    moves = image.format in ANIMATED and getattr(image, "n_frames", 1) > 1
    time = 0.0
    for frame in ImageSequence.Iterator(image) if moves else (image,):
      pixels = _flat(frame, background)  # first, as some formats tell a frame's duration with its pixels alone
      seconds = frame.info.get("duration", 0) / 1000 or (DEFAULT_SECONDS if moves else 0.0)
      yield Picture(time, seconds, *pixels.shape[:2], 1.0, functools.partial(np.asarray, pixels))
      time += seconds


def _flat(image: Image.Image, background: Colour) -> np.ndarray:
  """uint8 [H, W, 3] in sRGB, upright."""
  image = ImageOps.exif_transpose(image)
  if image.mode == "F":
    raise ValueError("gray values without a scale")
  if image.mode.startswith("I"):  # 16 bits of gray; Pillow would cut off what is above 255
    return np.repeat((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8)[..., None], 3, axis=2)
  alpha = image.has_transparency_data
  profile = image.info.get("icc_profile")
  if profile and image.mode in ("RGB", "RGBA", "CMYK", "L"):
    with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a broken profile: as if there were none
      srgb = ImageCms.createProfile("sRGB")
      image = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGBA" if alpha else "RGB")
  return over(np.asarray(image.convert("RGBA")), background) if alpha else np.asarray(image.convert("RGB"))
