"""Trackers besides metrics.jsonl, by name: TensorBoard and, if it is installed (extra `wandb`), Weights & Biases."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import pathlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ivid.media.files import write_whole
from ivid.media.places import is_remote
from ivid.spec import formats
from ivid.spec.errors import UserError, first_line
from ivid.spec.files import read_mapping
from ivid.spec.session import TENSORBOARD, WANDB, Watch
from ivid.train.metrics import OpenTracker
from ivid.train.tensorboard import open_board
from ivid.weights.ema import say

RUN_ID = "wandb.json"  # in a work folder: the id of its wandb run, which later commands continue
PROJECT = "ivid"  # unless WANDB_PROJECT names another
AXIS = "step"  # x axis of all our metrics: wandb's own counter never goes back, but that of a resumed run does


def check_trackers(watch: Watch) -> None:
  """Raises UserError for a tracker that is not installed."""
  if WANDB in watch.tracker_names and importlib.util.find_spec("wandb") is None:
    others = ",".join(name for name in watch.tracker_names if name != WANDB)
    raise UserError(f"--trackers={watch.trackers}: wandb is not installed: expected `pip install 'ivid[wandb]'`, or --trackers={others}")


def open_trackers(names: Sequence[str], config: Mapping[str, Any]) -> tuple[OpenTracker, ...]:
  """Functions that open the trackers of these names.

  Args:
    config: of the run, in the form of JSON, for trackers that show it.
  """
  known: dict[str, OpenTracker] = {TENSORBOARD: open_board, WANDB: functools.partial(Wandb, config=config)}
  return tuple(known[name] for name in names)


class Wandb:
  """One run of Weights & Biases for a work folder, however many commands train it. Its own environment variables hold: WANDB_MODE=offline,
  WANDB_PROJECT, WANDB_NAME.

  What goes wrong later than at the start is said, and the run goes on without it: metrics.jsonl has everything.
  """

  def __init__(self, workdir: pathlib.Path, from_step: int, *, config: Mapping[str, Any]):
    """Raises UserError if wandb cannot be reached or nobody is logged in."""
    import wandb  # an extra  # pyright: ignore[reportMissingImports]  an extra that need not be installed

    del from_step  # new points replace the later points of a killed process
    self._wandb = wandb
    named = dict(project=os.environ.get("WANDB_PROJECT", PROJECT))
    if "WANDB_NAME" not in os.environ:
      named["name"] = "/".join((workdir if is_remote(workdir) else workdir.resolve()).parts[-2:])
    identity = dict(id=_run_id(workdir / RUN_ID), resume="allow")
    place = None if is_remote(workdir) else str(workdir)  # of a run in a bucket its own: WANDB_DIR, or ./wandb
    try:
      self._run = wandb.init(dir=place, config=dict(config), **named, **identity)
      self._run.define_metric("*", step_metric=AXIS)
    except wandb.errors.Error as error:
      raise UserError(f"--trackers=wandb: {first_line(error)}; expected `wandb login` before, or WANDB_MODE=offline") from None

  def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._try(lambda run: run.log({AXIS: step, **values}))

  def add_image(self, step: int, name: str, image: np.ndarray) -> None:
    self._try(lambda run: run.log({AXIS: step, name: self._wandb.Image(image)}))

  def flush(self) -> None:
    """Does nothing: wandb sends everything at once."""

  def close(self, *, failed: bool = False) -> None:
    self._try(lambda run: run.finish(exit_code=int(failed)))

  def _try(self, call: Callable[[Any], None]) -> None:
    if self._run is None:
      return
    try:
      call(self._run)
    except (self._wandb.errors.Error, OSError) as error:
      self._run = None
      say(f"wandb: {first_line(error)}; going on without it, metrics.jsonl has everything")


def _run_id(path: pathlib.Path) -> str:
  """The id of the work folder's wandb run; a new one is stored if there is none."""
  if path.is_file():
    found = read_mapping(path, formats.Kind.DATA).get("id")
    if isinstance(found, str) and found:
      return found
  made = uuid.uuid4().hex[:8]
  write_whole(path, json.dumps(formats.stamped({"id": made})) + "\n")
  return made
