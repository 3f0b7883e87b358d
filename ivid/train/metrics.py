"""Metrics of a run: metrics.jsonl (one JSON object a line) and TensorBoard events."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

import numpy as np

from ivid.media.files import write_whole


class MetricWriter:
  """Writes scalars and pictures of process 0; other processes write nothing. Method names follow clu's writers."""

  def __init__(self, workdir: pathlib.Path, *, active: bool = True, from_step: int = 0):
    """Opens the run's files. Lines of steps after `from_step` (made after the checkpoint that a resumed run starts from) go."""
    self._file = None
    self._board = None
    if not active:
      return
    import tensorboardX  # slow to import, and only process 0 needs it

    path = workdir / "metrics.jsonl"
    _keep_until(path, from_step)
    self._file = path.open("a", encoding="utf-8")
    self._board = tensorboardX.SummaryWriter(str(workdir / "tb"), purge_step=from_step + 1 if from_step else None)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    if self._file is None:
      return
    values = {name: float(value) for name, value in scalars.items()}
    self._file.write(json.dumps({"step": step, **values}) + "\n")
    self._file.flush()
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    """image: [H, W, 3] uint8."""
    if self._board is not None:
      self._board.add_image(name, image, step, dataformats="HWC")

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
      self._board.close()


def _keep_until(path: pathlib.Path, step: int) -> None:
  if not path.exists():
    return
  kept = []
  for line in path.read_text(encoding="utf-8").split("\n"):
    try:
      row = json.loads(line)
    except json.JSONDecodeError:  # the last line of a killed process
      continue
    if row["step"] <= step:
      kept.append(line + "\n")
  write_whole(path, "".join(kept))
