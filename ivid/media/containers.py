"""Pictures of containers by PyAV: one is in memory at a time, and a window of a long clip is entered by a key frame before it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
from av.container import InputContainer
from av.filter import Graph
from av.format import ContainerFormat
from av.format import Flags as FormatFlags
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from ivid.media.cut import is_cut
from ivid.media.picture import MAX_PIXELS, BrokenOff, Colour, Picture, Source, check_size
from ivid.media.upright import turn_of, upright
from ivid.spec.errors import UserError

LONGER_STREAM = 1.0  # seconds that a sound may last longer than its pictures
JUMP = 10.0  # seconds between two pictures that are a jump of the clock, where a format has such, and no still picture
# They open what their text names, or what goes by a similar name: other files, addresses.
NAMES_OTHERS = {"concat", "dash", "hls", "image2", "imf", "rtp", "rtsp", "sap", "sdp", "vobsub", "webm_dash_manifest"}
COVERS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def open_container(source: Source, name: str) -> InputContainer:
  """Raises UserError: no clip, one without pictures or with too large ones, or a list of other files."""
  try:
    container = av.open(
      io.BytesIO(source) if isinstance(source, bytes) else os.path.abspath(source),  # a path that is no address
      "r",
      metadata_errors="replace",  # titles in other encodings than UTF-8 are nothing against the pictures
      options={"max_pixels": str(MAX_PIXELS)},  # of the decoders that look into the file now
      container_options={"format_whitelist": _formats(), "protocol_whitelist": "file"},
    )
  except av.ArgumentError:  # not on the list
    raise UserError(f"{name} is a playlist or its like, which names other files: expected the clip itself") from None
  except av.MemoryError:  # of tables that say to be longer than any that FFmpeg takes
    raise UserError(f"{name} is damaged, or needs more memory than there is") from None
  except (av.FFmpegError, OSError) as error:
    raise UserError(f"{name} is no clip that can be read: {error.strerror}") from None
  try:
    stream = video_stream(container, name)
    if stream.codec_context is None:
      raise UserError(f"{name} is of a codec that is unknown here")
    check_size(stream.codec_context.width, stream.codec_context.height, name)
  except UserError:
    container.close()
    raise
  return container


@functools.cache
def _formats() -> str:
  """FFmpeg's names of all formats that are one file."""
  found = []
  for name in av.formats_available:
    with contextlib.suppress(ValueError):  # one that is only written
      if not ContainerFormat(name, "r").flags & FormatFlags.no_file.value and name not in NAMES_OTHERS:
        found.append(name)
  return ",".join(sorted(found))


def video_stream(container: InputContainer, name: str = "") -> VideoStream:
  """The stream that players show: the first that is flagged as default, else the first, and no cover of a sound.

  Raises:
    UserError: there is none.
  """
  moving = [stream for stream in container.streams.video if not stream.disposition & COVERS]
  if not moving:
    raise UserError(f"{name} holds no pictures{' but a cover' if container.streams.video else ''}")
  return next((stream for stream in moving if stream.disposition & Disposition.default), moving[0])


def of_container(source: Source, start: float, background: Colour, name: str) -> Iterator[Picture | BrokenOff]:
  """Pictures from the one on that is shown at `start` seconds. Errors as of ivid.media.decode.pictures."""
  held = turn = None
  reformatter = VideoReformatter()  # one for all, as its tables cost more than a small picture
  for clip, time, frame in _entered(source, start, name):
    if held is not None and (frame is None or time > start):
      yield dataclasses.replace(held, seconds=time - held.time)  # until the next one appears
    if frame is None:
      break
    turn = turn or turn_of(frame)  # of the first one alone: a frame that was asked for it is kept until Python looks for cycles
    size = (frame.width, frame.height, 1 / clip.aspect) if turn.quarter else (frame.height, frame.width, clip.aspect)
    held = Picture(time, 0.0, *size, functools.partial(upright, frame, turn, background, reformatter), clip.tick)
  if clip.broken_off:
    yield BrokenOff(time)


_Shown = tuple["_Clip", float, av.VideoFrame | None]


def _entered(source: Source, start: float, name: str) -> Iterator[_Shown]:
  """(clip, time, frame) from one that appears at or before `start`, as of _Clip.timed."""
  if start > 0:
    with open_container(source, name) as container:
      clip = _Clip(container, source, name)
      if clip.seek(start):
        frames = clip.timed()
        head = next(frames)
        if head[1] <= start:
          yield head
          yield from frames
          return
  with open_container(source, name) as container:  # from its beginning: there is no index, or no key frame before
    yield from _Clip(container, source, name).timed()


class _Clip:
  """An open container's pictures in order of time.

  Attributes:
    aspect: of a pixel.
    tick: seconds that times are counted in.
    broken_off: after the last picture, whether the file ends before its structure does.
  """

  def __init__(self, container: InputContainer, source: Source, name: str):
    self._container, self._source, self._name = container, source, name
    self._stream = video_stream(container, name)
    self._clock_jumps = bool(container.format.flags & FormatFlags.ts_discont.value)
    self._counted = "mp4" in container.format.name and self._stream.frames > 0  # an .avi counts ticks, of which some show nothing new
    self._zero: float | None = None
    self._packets = 0
    self._still_until = -math.inf  # seconds of the clock up to which packets say that nothing new is shown
    self._sought = self._jumped = False
    self.aspect = float(self._stream.sample_aspect_ratio or 1)
    self._tick = cast("Fraction", self._stream.time_base)  # every stream of pictures has one
    self.tick = float(self._tick)
    self.broken_off = False

  def seek(self, start: float) -> bool:
    """Whether it now begins with a key frame before so many seconds. A clock that jumps does not say where to look."""
    stream = self._stream
    if stream.start_time is None or self._clock_jumps:
      return False
    try:
      self._container.seek(stream.start_time + int(start / self._tick), stream=stream)
    except av.FFmpegError:
      return False
    self._zero, self._sought = float(stream.start_time * self._tick), True
    return True

  def timed(self) -> Iterator[_Shown]:
    """Each frame with the seconds after the first one's time at which it appears, in rising order; last the end, without a frame."""
    zero, last, stated = self._zero, None, 0.0
    gap = 1 / float(self._stream.average_rate or 1)
    for frame in self._decoded():
      time = frame.time
      if time is None:
        time = 0.0 if last is None or zero is None else zero + last + gap
      zero = time if zero is None else zero
      if self._clock_jumps and last is not None and not last - gap / 2 < time - zero < last + JUMP:
        zero, self._jumped = time - (last + gap), True  # another part, which counts anew
      time = max(time - zero, 0.0 if last is None else last)
      if last is not None and time > last:
        gap = time - last
      last = time
      stated = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else gap
      yield self, time, frame
    still = self._still_until - cast("float", zero)
    yield self, self._end(max(last + stated, still), max(last + gap, still), gap), None

  def _end(self, end: float, seen: float, gap: float) -> float:
    """Seconds at which the last picture ends, where its packet says `end`; `seen`: which are there in any case.

    Raises:
      UserError: the file was cut and says how long it was.
    """
    if self._sought or self._counted:
      return end
    cut = self.broken_off or is_cut(self._source)
    self.broken_off = bool(cut)
    length = 0.0 if self._jumped else (self._container.duration or 0) / av.time_base
    alone = len(self._container.streams) == 1
    missing = length - seen
    said = not self._clock_jumps and "mp4" not in self._container.format.name  # else FFmpeg has seen what there is
    if said and cut is not False and missing > (0.75 * gap if alone else LONGER_STREAM):
      raise UserError(f"{self._name} breaks off: it has {seen:.3g} s of its {length:.3g} s")
    if not cut and missing > 0.75 * gap and alone:
      return length  # nothing new is shown up to the end
    return end

  def _decoded(self) -> Iterator[av.VideoFrame]:
    """Whole frames: where one is interlaced, it and those that follow are made of both fields."""
    stream = self._stream
    stream.thread_type = "SLICE"  # threads of whole frames now and then lose the error of the last one
    # Else what is damaged is painted over.
    stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
    graph, count = None, 0
    packets = self._container.demux(stream)
    try:
      for frame in self._decoded_from(packets):
        count += 1
        if graph is None and frame.interlaced_frame:
          graph = _deinterlacing(stream)
        yield from [frame] if graph is None else _through(graph, frame)
    except av.FFmpegError as error:
      if self._counted or not count or not self._is_over(packets):
        raise UserError(f"{self._name} is damaged after {count} frames: {error.strerror}") from None
      self.broken_off = True
    yield from [] if graph is None else _through(graph, None)
    if not count:
      raise UserError(f"{self._name} holds no pictures")
    if self._counted and not self._sought and self._packets < stream.frames:
      raise UserError(f"{self._name} breaks off: it has {self._packets} of its {stream.frames} frames")

  def _decoded_from(self, packets: Iterator[av.Packet]) -> Iterator[av.VideoFrame]:
    packet = None
    for packet in packets:
      if packet.size:  # else nothing new is shown (Theora, AVI), or it is PyAV's last one, at which decoders give what they hold
        self._packets += 1
        yield from packet.decode()
      elif packet.pts is not None:
        self._still_until = float((packet.pts + (packet.duration or 0)) * packet.time_base)
    yield from packet.decode()

  def _is_over(self, packets: Iterator[av.Packet]) -> bool:
    """Whether what could not be decoded is the piece that is left where the file was cut, which some formats alone can tell."""
    with contextlib.suppress(av.FFmpegError):
      if any(packet.size for packet in packets):
        return False
    return self._clock_jumps or is_cut(self._source) is not False


def _deinterlacing(stream: VideoStream) -> Graph:
  graph = Graph()
  graph.link_nodes(graph.add_buffer(template=stream), graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
  graph.configure()
  return graph


def _through(graph: Graph, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
  graph.push(frame)
  with contextlib.suppress(av.BlockingIOError, av.EOFError):
    while True:
      yield cast("av.VideoFrame", graph.pull())
