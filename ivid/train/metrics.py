"""Metrics of a run: metrics.jsonl (one JSON object a line), and trackers that show them, TensorBoard by default.

A bucket's objects are written once and not appended to. There metrics/FIRST-LAST-NUMBER.jsonl hold what was logged from step FIRST to LAST,
one for every OBJECT_SECONDS and one before each checkpoint, so that no line is lost that a resumed run does not write again.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ivid.media.files import write_whole
from ivid.media.places import is_remote
from ivid.spec.errors import UserError
from ivid.train.tensorboard import open_board

FILE = "metrics.jsonl"  # in a work folder
OBJECTS = "metrics"  # in one in a bucket
OBJECT_SECONDS = 30.0  # between two objects


class Tracker(Protocol):
  """One place where metrics are shown; what cannot be written is an OSError or a UserError."""

  def add_scalars(self, step: int, values: Mapping[str, float]) -> None: ...

  def add_image(self, step: int, name: str, image: np.ndarray) -> None:
    """image: [H, W, 3] uint8."""
    ...

  def flush(self) -> None:
    """Lets what was written be found after this process's death."""
    ...

  def close(self, *, failed: bool = False) -> None:
    """Ends what this process writes; `failed`: the run ended by an error."""
    ...


# workdir, from_step (as of MetricWriter) -> the tracker, opened
OpenTracker = Callable[[pathlib.Path, int], Tracker]


class MetricWriter:
  """Writes scalars and pictures of process 0; other processes write nothing. Method names follow clu's writers.

  Nothing is written, and no file touched, before the first of them or `open`. UserError where that cannot be, as on a full disk.
  """

  def __init__(self, workdir: pathlib.Path, *, active: bool = True, from_step: int = 0, trackers: Sequence[OpenTracker] | None = None):
    """Lines of steps after `from_step` (made after the checkpoint that a resumed run starts from) go.

    Args:
      workdir: here or, as epath has it, in a bucket.
      trackers: None: TensorBoard.
    """
    self._workdir, self._active, self._from_step = workdir, active, from_step
    self._open_trackers = (open_board,) if trackers is None else tuple(trackers)
    self._file, self._trackers = None, list[Tracker]()

  def open(self) -> None:
    """Opens the file and the trackers now rather than with the first row: a run whose tracker cannot be reached ends before it trains."""
    if self._active:
      with self._writing():
        pass

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    if not self._active:
      return
    values = {name: float(value) for name, value in scalars.items()}
    with self._writing():
      self._file.add(step, json.dumps({"step": step, **values}) + "\n")
      for tracker in self._trackers:
        tracker.add_scalars(step, values)

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    """image: [H, W, 3] uint8."""
    if self._active:
      with self._writing():
        for tracker in self._trackers:
          tracker.add_image(step, name, image)

  def flush(self) -> None:
    """Lets what was written be found after this process's death; called before each checkpoint."""
    if self._file is not None:
      with self._writing():
        self._file.flush()
        for tracker in self._trackers:
          tracker.flush()

  def __enter__(self) -> MetricWriter:
    return self

  def __exit__(self, kind: object, *_: object) -> None:
    with contextlib.suppress(*() if kind is None else (UserError,)):  # what ends the run is said already
      self.close(failed=kind is not None)

  def close(self, *, failed: bool = False) -> None:
    """`failed`: the run ended by an error."""
    if self._file is not None:
      with self._writing():
        self._file.close()
        for tracker in self._trackers:
          tracker.close(failed=failed)

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      if self._file is None:
        trackers = [make(self._workdir, self._from_step) for make in self._open_trackers]
        self._file = (_Objects if is_remote(self._workdir) else _Lines)(self._workdir, self._from_step)
        self._trackers = trackers
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
