"""Pictures of containers by PyAV: one is in memory at a time, and a window of a long clip is entered by a key frame before it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Iterator

import av
from av.filter import Graph
from av.video.reformatter import VideoReformatter

from ivid.media.picture import Colour, Picture, Source
from ivid.media.upright import turn_of, upright
from ivid.spec.errors import UserError

LONGER_STREAM = 1.0  # seconds that a sound may last longer than its pictures


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


def of_container(source: Source, start: float, background: Colour, name: str) -> Iterator[Picture]:
  """Pictures from the one on that is shown at `start` seconds. Errors as of ivid.media.decode.pictures."""
  held = turn = None
  reformatter = VideoReformatter()  # one for all, as its tables cost more than a small picture
  for time, seconds, frame, aspect in _entered(source, start, name):
    if held is not None and time > start:
      yield dataclasses.replace(held, seconds=time - held.time)  # until the next one appears
    turn = turn or turn_of(frame)  # of the first one alone: a frame that was asked for it is kept until Python looks for cycles
    size = (frame.width, frame.height, 1 / aspect) if turn.quarter else (frame.height, frame.width, aspect)
    held = Picture(time, seconds, *size, functools.partial(upright, frame, turn, background, reformatter))
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
