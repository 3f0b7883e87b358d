"""Reads pictures from containers by PyAV. One is in memory at a time, and reading within a long clip starts at a key frame."""

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

LONGER_STREAM = 1.0  # seconds by which a sound may be longer than its pictures
JUMP = 10.0  # so many seconds between two pictures are a jump of the clock, in formats that have such jumps, and not a still picture
# These formats open what their text names, or similar names: other files and addresses.
NAMES_OTHERS = {"concat", "dash", "hls", "image2", "imf", "rtp", "rtsp", "sap", "sdp", "vobsub", "webm_dash_manifest"}
COVERS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def open_container(source: Source, name: str) -> InputContainer:
  """Raises UserError if it is not a clip, has no pictures or too large ones, or is a list of other files."""
  try:
    container = av.open(
      io.BytesIO(source) if isinstance(source, bytes) else os.path.abspath(source),  # a path that cannot be taken for an address
      "r",
      metadata_errors="replace",  # titles that are not UTF-8 do not matter for the pictures
      options={"max_pixels": str(MAX_PIXELS)},  # for the decoders that look into the file now
      container_options={"format_whitelist": _formats(), "protocol_whitelist": "file"},
    )
  except av.ArgumentError:  # the format is not on the list
    raise UserError(f"{name} is a playlist or its like, which names other files: expected the clip itself") from None
  except av.MemoryError:  # for tables that claim to be longer than FFmpeg allows
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
  """FFmpeg's names of all formats that consist of one file."""
  found = []
  for name in av.formats_available:
    with contextlib.suppress(ValueError):  # a format that can only be written
      if not ContainerFormat(name, "r").flags & FormatFlags.no_file.value and name not in NAMES_OTHERS:
        found.append(name)
  return ",".join(sorted(found))


def video_stream(container: InputContainer, name: str = "") -> VideoStream:
  """The stream that players show: the first that is flagged as default, else the first, but never the cover of a sound.

  Raises:
    UserError: there is none.
  """
  moving = [stream for stream in container.streams.video if not stream.disposition & COVERS]
  if not moving:
    raise UserError(f"{name} holds no pictures{' but a cover' if container.streams.video else ''}")
  return next((stream for stream in moving if stream.disposition & Disposition.default), moving[0])


def of_container(source: Source, start: float, background: Colour, name: str) -> Iterator[Picture | BrokenOff]:
  """Yields pictures, beginning with the one shown at `start` seconds. Raises as ivid.media.decode.pictures."""
  held = turn = None
  reformatter = VideoReformatter()  # one for all pictures, because its tables cost more than a small picture
  for clip, time, frame in _entered(source, start, name):
    if held is not None and (frame is None or time > start):
      yield dataclasses.replace(held, seconds=time - held.time)  # until the next picture appears
    if frame is None:
      break
    turn = turn or turn_of(frame)  # only from the first frame: a frame that is asked for it stays in memory until Python collects cycles
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
  with open_container(source, name) as container:  # from the beginning, because there is no index or no earlier key frame
    yield from _Clip(container, source, name).timed()


class _Clip:
  """The pictures of an open container in order of time.

  Attributes:
    aspect: of a pixel.
    tick: unit of its times, in seconds.
    broken_off: after the last picture, whether the file is truncated.
  """

  def __init__(self, container: InputContainer, source: Source, name: str):
    self._container, self._source, self._name = container, source, name
    self._stream = video_stream(container, name)
    self._clock_jumps = bool(container.format.flags & FormatFlags.ts_discont.value)
    self._counted = "mp4" in container.format.name and self._stream.frames > 0  # an .avi counts ticks, some of which show nothing new
    self._zero: float | None = None
    self._packets = 0
    self._still_until = -math.inf  # seconds of the clock until which packets say that nothing new is shown
    self._sought = self._jumped = False
    self.aspect = float(self._stream.sample_aspect_ratio or 1)
    self._tick = cast("Fraction", self._stream.time_base)  # every stream of pictures has one
    self.tick = float(self._tick)
    self.broken_off = False

  def seek(self, start: float) -> bool:
    """Seeks a key frame before so many seconds, and returns whether this worked. If the clock jumps, it cannot tell where to look."""
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
    """Yields each frame with its time in seconds after the first, in rising order, and finally the time of the end without a frame."""
    zero, last, stated = self._zero, None, 0.0
    gap = 1 / float(self._stream.average_rate or 1)
    for frame in self._decoded():
      time = frame.time
      if time is None:
        time = 0.0 if last is None or zero is None else zero + last + gap
      zero = time if zero is None else zero
      if self._clock_jumps and last is not None and not last - gap / 2 < time - zero < last + JUMP:
        zero, self._jumped = time - (last + gap), True  # another part, whose clock starts again
      time = max(time - zero, 0.0 if last is None else last)
      if last is not None and time > last:
        gap = time - last
      last = time
      stated = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else gap
      yield self, time, frame
    still = self._still_until - cast("float", zero)
    yield self, self._end(max(last + stated, still), max(last + gap, still), gap), None

  def _end(self, end: float, seen: float, gap: float) -> float:
    """The time in seconds at which the last picture ends. Its packet says `end`; the file has at least `seen`.

    Raises:
      UserError: the file is truncated, and states how long it was.
    """
    if self._sought or self._counted:
      return end
    cut = self.broken_off or is_cut(self._source)
    self.broken_off = bool(cut)
    length = 0.0 if self._jumped else (self._container.duration or 0) / av.time_base
    alone = len(self._container.streams) == 1
    missing = length - seen
    said = not self._clock_jumps and "mp4" not in self._container.format.name  # otherwise FFmpeg has seen everything
    if said and cut is not False and missing > (0.75 * gap if alone else LONGER_STREAM):
      raise UserError(f"{self._name} breaks off: it has {seen:.3g} s of its {length:.3g} s")
    if not cut and missing > 0.75 * gap and alone:
      return length  # nothing new is shown up to the end
    return end

  def _decoded(self) -> Iterator[av.VideoFrame]:
    """Yields whole frames. If one is interlaced, it and all later frames are made from both fields."""
    stream = self._stream
    stream.thread_type = "SLICE"  # threading by frames sometimes loses the error of the last one
    # Otherwise damage is painted over.
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
      if packet.size:  # otherwise it shows nothing new (Theora, AVI), or is PyAV's last packet, at which decoders return what they hold
        self._packets += 1
        yield from packet.decode()
      elif packet.pts is not None:
        self._still_until = float((packet.pts + (packet.duration or 0)) * packet.time_base)
    yield from packet.decode()

  def _is_over(self, packets: Iterator[av.Packet]) -> bool:
    """Whether the undecodable data is the last piece of a truncated file, which only some formats can tell."""
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
