"""Metrics of a run: metrics.jsonl (one JSON object a line), and trackers that show them, TensorBoard by default."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ivid.media.files import write_whole
from ivid.spec.errors import UserError

FILE, BOARD = "metrics.jsonl", "tb"  # in a work folder
FLUSH_SECONDS = 60.0  # between two times that TensorBoard's events reach the disk for sure


class Tracker(Protocol):
  """One place where metrics are shown; what cannot be written is an OSError or a UserError."""

  def add_scalars(self, step: int, values: Mapping[str, float]) -> None: ...

  def add_image(self, step: int, name: str, image: np.ndarray) -> None:
    """image: [H, W, 3] uint8."""
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
      trackers: None: TensorBoard.
    """
    self._workdir, self._active, self._from_step = pathlib.Path(workdir), active, from_step
    self._open_trackers = (TensorBoard,) if trackers is None else tuple(trackers)
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
      self._file.write(json.dumps({"step": step, **values}) + "\n")
      self._file.flush()
      for tracker in self._trackers:
        tracker.add_scalars(step, values)

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    """image: [H, W, 3] uint8."""
    if self._active:
      with self._writing():
        for tracker in self._trackers:
          tracker.add_image(step, name, image)

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
        _keep_until(self._workdir / FILE, self._from_step)
        self._trackers += [make(self._workdir, self._from_step) for make in self._open_trackers]
        self._file = (self._workdir / FILE).open("a", encoding="utf-8")
      yield
    except OSError as error:
      raise UserError(f"cannot write the metrics in {self._workdir}: {error.strerror or error}; the same command goes on") from None


class TensorBoard:
  """TensorBoard's events, written at once: tensorboardX's own writer has a thread, in which a full disk ends without a word, and a queue
  that then waits for ever."""

  def __init__(self, workdir: pathlib.Path, from_step: int):
    from tensorboardX import event_file_writer, summary  # slow to import, and only process 0 needs it
    from tensorboardX.proto import event_pb2

    self._event, self._log, self._summary = event_pb2.Event, event_pb2.SessionLog, summary
    folder = workdir / BOARD
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
      self._writer.flush()
      self._flushed = time.monotonic()

  def close(self, *, failed: bool = False) -> None:
    del failed  # what is in the file is whole either way
    self._writer.close()


def read_rows(workdir: pathlib.Path) -> Iterator[dict[str, Any]]:
  """What a run has logged, a dictionary with its step for each line; the last line of a process that was killed is left out."""
  path = pathlib.Path(workdir) / FILE
  for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else ():
    with contextlib.suppress(json.JSONDecodeError):
      row = json.loads(line)
      if isinstance(row, dict) and isinstance(row.get("step"), int):
        yield row


def _keep_until(path: pathlib.Path, step: int) -> None:
  if path.exists():
    write_whole(path, "".join(json.dumps(row) + "\n" for row in read_rows(path.parent) if row["step"] <= step))
