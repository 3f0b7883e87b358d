"""Metrics of a run: metrics.jsonl (one JSON object a line) and TensorBoard events.

A bucket's objects are written once and not appended to. There metrics/FIRST-LAST-NUMBER.jsonl hold what was logged from step FIRST to LAST,
one for every OBJECT_SECONDS and one before each checkpoint, so that no line is lost that a resumed run does not write again; and
TensorBoard gets as many files of events, which `tensorboard --reload_multifile=true` reads.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ivid.media.files import write_whole
from ivid.media.places import is_remote, upload
from ivid.spec.errors import UserError

FILE, BOARD = "metrics.jsonl", "tb"  # in a work folder
OBJECTS = "metrics"  # in one in a bucket
OBJECT_SECONDS = 30.0  # between two objects
FLUSH_SECONDS = 60.0  # between two times that TensorBoard's events reach the disk for sure


class MetricWriter:
  """Writes scalars and pictures of process 0; other processes write nothing. Method names follow clu's writers.

  Nothing is written, and no file touched, before the first of them. UserError where that cannot be, as on a full disk.
  """

  def __init__(self, workdir: pathlib.Path, *, active: bool = True, from_step: int = 0):
    """Lines of steps after `from_step` (made after the checkpoint that a resumed run starts from) go."""
    self._workdir, self._active, self._from_step = workdir, active, from_step
    self._file, self._board = None, None

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    if not self._active:
      return
    values = {name: float(value) for name, value in scalars.items()}
    with self._writing():
      self._board.add_scalars(step, values)
      self._file.add(step, json.dumps({"step": step, **values}) + "\n")

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    """image: [H, W, 3] uint8."""
    if self._active:
      with self._writing():
        self._board.add_image(step, name, image)

  def flush(self) -> None:
    """Lets what was written be found after this process's death; called before each checkpoint."""
    if self._file is not None:
      with self._writing():
        self._file.flush()
        self._board.flush()

  def __enter__(self) -> MetricWriter:
    return self

  def __exit__(self, kind: object, *_: object) -> None:
    with contextlib.suppress(*() if kind is None else (UserError,)):  # what ends the run is said already
      self.close()

  def close(self) -> None:
    if self._file is not None:
      with self._writing():
        self._file.close()
        self._board.close()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      if self._file is None:
        board, file = (_RemoteBoard, _Objects) if is_remote(self._workdir) else (_Board, _Lines)
        self._board, self._file = board(self._workdir / BOARD, self._from_step), file(self._workdir, self._from_step)
      yield
    except OSError as error:
      raise UserError(f"cannot write the metrics in {self._workdir}: {error.strerror or error}; the same command goes on") from None


class _Lines:
  """metrics.jsonl, each line of which is there at once."""

  def __init__(self, workdir: pathlib.Path, from_step: int):
    _keep_until(workdir / FILE, from_step)
    self._file = (workdir / FILE).open("a", encoding="utf-8")

  def add(self, step: int, line: str) -> None:
    del step  # the line says it
    self._file.write(line)
    self._file.flush()

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()


class _Objects:
  """Lines in a bucket, many in each object."""

  def __init__(self, workdir: pathlib.Path, from_step: int):
    self._folder, self._number = workdir / OBJECTS, 0
    self._lines, self._steps, self._written = list[str](), list[int](), time.monotonic()
    for first, last, number, path in _objects(workdir):
      self._number = max(self._number, number + 1)
      if last > from_step:
        kept = [row for row in _rows(path) if row["step"] <= from_step]
        if kept:
          write_whole(self._folder / _name(first, kept[-1]["step"], number), "".join(json.dumps(row) + "\n" for row in kept))
        path.unlink()

  def add(self, step: int, line: str) -> None:
    self._lines.append(line)
    self._steps.append(step)
    if time.monotonic() - self._written > OBJECT_SECONDS:
      self.flush()

  def flush(self) -> None:
    if self._lines:
      write_whole(self._folder / _name(self._steps[0], self._steps[-1], self._number), "".join(self._lines))
      self._lines, self._steps, self._number = [], [], self._number + 1
    self._written = time.monotonic()

  close = flush


class _Board:
  """TensorBoard's events, written at once: tensorboardX's own writer has a thread, in which a full disk ends without a word, and a queue
  that then waits for ever."""

  def __init__(self, folder: pathlib.Path, from_step: int):
    from tensorboardX import event_file_writer, summary  # slow to import, and only process 0 needs it
    from tensorboardX.proto import event_pb2

    self._event, self._log, self._summary = event_pb2.Event, event_pb2.SessionLog, summary
    folder.mkdir(exist_ok=True)
    self._writer = event_file_writer.EventsWriter(str(folder / "events"))
    self._flushed = time.monotonic()
    if from_step:  # what an earlier process wrote of later steps is not shown
      self._write(from_step + 1, session_log=self._log(status=self._log.START))

  def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
      self._write(step, summary=self._summary.scalar(name, value))

  def add_image(self, step: int, name: str, image: np.ndarray) -> None:
    self._write(step, summary=self._summary.image(name, image, dataformats="HWC"))

  def _write(self, step: int, **contents: Any) -> None:
    self._writer.write_event(self._event(wall_time=time.time(), step=step, **contents))
    if time.monotonic() - self._flushed > FLUSH_SECONDS:
      self.flush()

  def flush(self) -> None:
    self._writer.flush()
    self._flushed = time.monotonic()

  def close(self) -> None:
    self._writer.close()


class _RemoteBoard:
  """TensorBoard's events in a bucket: written here, and after each flush, as a file of their own, there."""

  def __init__(self, folder: pathlib.Path, from_step: int):
    self._target, self._from_step, self._board = folder, from_step, None
    self._here = tempfile.TemporaryDirectory()

  def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._open().add_scalars(step, values)

  def add_image(self, step: int, name: str, image: np.ndarray) -> None:
    self._open().add_image(step, name, image)

  def flush(self) -> None:
    if self._board is not None:
      self._board.close()
      self._board = None
      for path in sorted(pathlib.Path(self._here.name).iterdir()):
        upload(path, self._target / f"{path.name}.{time.time_ns()}")  # names in the order of their events
        path.unlink()

  def close(self) -> None:
    self.flush()
    self._here.cleanup()

  def _open(self) -> _Board:
    if self._board is None:
      self._board, self._from_step = _Board(pathlib.Path(self._here.name), self._from_step), 0
    return self._board


def read_rows(workdir: pathlib.Path) -> Iterator[dict[str, Any]]:
  """What a run has logged, a dictionary with its step for each line; the last line of a process that was killed is left out."""
  if is_remote(workdir):
    for *_, path in _objects(workdir):
      yield from _rows(path)
  elif (path := pathlib.Path(workdir) / FILE).is_file():
    yield from _rows(path)


@contextlib.contextmanager
def metrics_file(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
  """metrics.jsonl of a work folder; of one in a bucket a copy, for as long as this lasts."""
  if not is_remote(workdir):
    yield workdir / FILE
    return
  with tempfile.TemporaryDirectory() as place:
    path = pathlib.Path(place, FILE)
    path.write_text("".join(json.dumps(row) + "\n" for row in read_rows(workdir)), encoding="utf-8")
    yield path


def _name(first: int, last: int, number: int) -> str:
  return f"{first:09d}-{last:09d}-{number:06d}.jsonl"


def _objects(workdir: pathlib.Path) -> list[tuple[int, int, int, pathlib.Path]]:
  """First step, last step, number and path of the objects in the order in which they were written."""
  folder, found = workdir / OBJECTS, []
  for path in folder.iterdir() if folder.is_dir() else ():
    if match := re.fullmatch(r"(\d+)-(\d+)-(\d+)\.jsonl", path.name):
      found.append((*map(int, match.groups()), path))
  return sorted(found, key=lambda one: one[2])


def _rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  for line in path.read_bytes().decode("utf-8", errors="replace").split("\n"):
    with contextlib.suppress(json.JSONDecodeError):
      row = json.loads(line)
      if isinstance(row, dict) and isinstance(row.get("step"), int):
        yield row


def _keep_until(path: pathlib.Path, step: int) -> None:
  if path.exists():
    write_whole(path, "".join(json.dumps(row) + "\n" for row in read_rows(path.parent) if row["step"] <= step))
