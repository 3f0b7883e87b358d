"""Metrics of a run: metrics.jsonl (one JSON object per line), and trackers that show them, by default TensorBoard.

Objects in a bucket are written once and cannot be appended to. There, metrics/FIRST-LAST-NUMBER.jsonl holds what was logged from step FIRST
to LAST. One object is written every OBJECT_SECONDS and one before each checkpoint, so that a killed run only loses lines that the resumed
run writes again.
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
OBJECTS = "metrics"  # in a work folder in a bucket
OBJECT_SECONDS = 30.0  # between two objects


class Tracker(Protocol):
  """One place where metrics are shown. Raises OSError or UserError if something cannot be written."""

  def add_scalars(self, step: int, values: Mapping[str, float]) -> None: ...

  def add_image(self, step: int, name: str, image: np.ndarray) -> None:
    """image: [H, W, 3] uint8."""
    ...

  def flush(self) -> None:
    """Makes sure that what was written survives the death of this process."""
    ...

  def close(self, *, failed: bool = False) -> None:
    """Ends the writing of this process; `failed`: whether the run ended with an error."""
    ...


# workdir, from_step (as in MetricWriter) -> the opened tracker
OpenTracker = Callable[[pathlib.Path, int], Tracker]


class MetricWriter:
  """Writes scalars and pictures of process 0; other processes write nothing. Method names follow clu's writers.

  Nothing is written and no file touched before the first call or `open`. Raises UserError if writing fails, as on a full disk.
  """

  def __init__(self, workdir: pathlib.Path, *, active: bool = True, from_step: int = 0, trackers: Sequence[OpenTracker] | None = None):
    """Removes lines of steps after `from_step`, which were made after the checkpoint from which a run resumes.

    Args:
      workdir: a local path or, as an epath, a folder in a bucket.
      trackers: None: TensorBoard.
    """
    self._workdir, self._active, self._from_step = workdir, active, from_step
    self._open_trackers = (open_board,) if trackers is None else tuple(trackers)
    self._file, self._trackers = None, list[Tracker]()

  def open(self) -> None:
    """Opens the file and the trackers now and not at the first row, so that a run with an unreachable tracker ends before training."""
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
    """Makes sure that what was written survives the death of this process; called before each checkpoint."""
    if self._file is not None:
      with self._writing():
        self._file.flush()
        for tracker in self._trackers:
          tracker.flush()

  def __enter__(self) -> MetricWriter:
    return self

  def __exit__(self, kind: object, *_: object) -> None:
    with contextlib.suppress(*() if kind is None else (UserError,)):  # the error that ended the run has already been reported
      self.close(failed=kind is not None)

  def close(self, *, failed: bool = False) -> None:
    """`failed`: whether the run ended with an error."""
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
  """metrics.jsonl; each line is written at once."""

  def __init__(self, workdir: pathlib.Path, from_step: int):
    _keep_until(workdir / FILE, from_step)
    self._file = (workdir / FILE).open("a", encoding="utf-8")

  def add(self, step: int, line: str) -> None:
    del step  # it is in the line
    self._file.write(line)
    self._file.flush()

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()


class _Objects:
  """Lines in a bucket, many per object."""

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
  """What a run has logged: one dictionary per line, with its step. The incomplete last line of a killed process is left out."""
  if is_remote(workdir):
    for *_, path in _objects(workdir):
      yield from _rows(path)
  elif (path := pathlib.Path(workdir) / FILE).is_file():
    yield from _rows(path)


@contextlib.contextmanager
def metrics_file(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
  """metrics.jsonl of a work folder; for a bucket, a copy that exists within the context."""
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
  """First step, last step, number and path of each object, in the order of writing."""
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
