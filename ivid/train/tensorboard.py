"""Metrics as TensorBoard shows them; in a bucket, whose objects are written once, in many files of events, which
`tensorboard --reload_multifile=true` reads."""

from __future__ import annotations

import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ivid.media.places import is_remote, upload

BOARD = "tb"  # in a work folder
FLUSH_SECONDS = 60.0  # events are certain to reach the disk this often


class TensorBoard:
  """TensorBoard's events, written at once: tensorboardX's own writer has a thread, in which a full disk ends without a word, and a queue
  that then waits for ever."""

  def __init__(self, workdir: pathlib.Path, from_step: int):
    from tensorboardX import event_file_writer, summary  # slow to import, and only process 0 needs it
    from tensorboardX.proto import event_pb2

    self._event, self._log, self._summary = event_pb2.Event, event_pb2.SessionLog, summary  # pyright: ignore[reportAttributeAccessIssue]  made by protobuf when it is imported
    folder = workdir / BOARD
    folder.mkdir(exist_ok=True)
    self._writer = event_file_writer.EventsWriter(str(folder / "events"))
    self._flushed = time.monotonic()
    if from_step:  # hides later steps that an earlier process wrote
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

  def close(self, *, failed: bool = False) -> None:
    del failed  # the file is complete either way
    self._writer.close()


class RemoteBoard:
  """TensorBoard's events in a bucket: written locally, and uploaded as a new file after each flush."""

  def __init__(self, workdir: pathlib.Path, from_step: int):
    self._target, self._from_step, self._board = workdir / BOARD, from_step, None
    self._here = tempfile.TemporaryDirectory()

  def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._open().add_scalars(step, values)

  def add_image(self, step: int, name: str, image: np.ndarray) -> None:
    self._open().add_image(step, name, image)

  def flush(self) -> None:
    if self._board is not None:
      self._board.close()
      self._board = None
      for path in sorted(pathlib.Path(self._here.name, BOARD).iterdir()):
        upload(path, self._target / f"{path.name}.{time.time_ns()}")  # the names sort in the order of the events
        path.unlink()

  def close(self, *, failed: bool = False) -> None:
    del failed
    self.flush()
    self._here.cleanup()

  def _open(self) -> TensorBoard:
    if self._board is None:
      self._board, self._from_step = TensorBoard(pathlib.Path(self._here.name), self._from_step), 0
    return self._board


def open_board(workdir: pathlib.Path, from_step: int) -> TensorBoard | RemoteBoard:
  """The board of a work folder, local or in a bucket. If a run resumes at `from_step`, later steps are no longer shown."""
  return (RemoteBoard if is_remote(workdir) else TensorBoard)(workdir, from_step)
