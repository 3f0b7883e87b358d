"""`ivid evaluate --watch`: the checkpoints of a run are measured as they appear, by the curves that its training could draw itself."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ivid.media.files import write_whole
from ivid.media.places import local_path
from ivid.parallel import signals
from ivid.runs.cache import enable_compilation_cache
from ivid.runs.curve import Curve
from ivid.runs.curves import CURVES
from ivid.runs.text import open_text
from ivid.runs.workdir import CONFIG, STATUS
from ivid.sample.option_texts import read_option
from ivid.spec import formats
from ivid.spec.errors import UserError
from ivid.spec.evaluation import WATCH_FIELDS
from ivid.spec.files import read_mapping, read_spec
from ivid.spec.run import RunSpec, TrainSpec
from ivid.spec.stage import StageSpec
from ivid.stage import Stage
from ivid.train.metrics import MetricWriter, read_rows
from ivid.weights.ema import Damaged, load_ema, say
from ivid.weights.kept import FOLDER, finished_steps, no_checkpoint, place

WATCHED = "watched.json"  # what the figures beside it are of
POLL_SECONDS = 5.0  # between two looks at the run's folder
NAP_SECONDS = 0.25  # after which a signal is heard


@dataclasses.dataclass(frozen=True)
class _Ema:
  """A checkpoint's weights, as a curve reads them."""

  ema: Any


def watch(workdir: str | pathlib.Path, out: str | os.PathLike[str], metrics: Sequence[str], given: Mapping[str, Any]) -> None:
  """Measures each checkpoint of a run, the oldest first, until the run has ended; logs figures as a run does, in a folder of its own.

  What is logged there is not measured again, so the same command goes on after it was stopped or killed.

  Args:
    workdir: of `ivid train`; it need not have begun.
    out: metrics.jsonl, tb/ and WATCHED.
    metrics: names of CURVES.
    given: flags, of which those of WATCH_FIELDS take the place of what the run's TrainSpec says; `steps` is a text.

  Raises:
    UserError: no such folder, a metric that is no curve, figures of another run or with other settings in `out`, what the curves refuse.
  """
  for metric in metrics:
    if metric not in CURVES:
      raise UserError(f"--watch with metric {metric}: expected {', '.join(CURVES)}, which a stage's own weights have")
  folder, out = place(workdir), local_path(out, "--out")
  if not folder.is_dir():
    raise UserError(f"--watch={workdir}: no such folder: expected the work folder of a run")
  if not (folder / CONFIG).is_file() and any(folder.glob(f"*/{FOLDER}")):
    raise UserError(f"--watch={workdir}: {no_checkpoint(folder)}")
  changes = {field: given[name] for name, field in WATCH_FIELDS.items() if name in given}
  if "steps" in given:
    changes["sample_steps"] = read_option("steps", given["steps"])
    if not isinstance(changes["sample_steps"], int):
      raise UserError(f"--steps={given['steps']} beside --watch: expected a whole number, for the one stage of the run")
  TrainSpec(**changes)  # refuses what is out of range before it waits
  enable_compilation_cache()
  with signals.listening():
    _Watch(folder, out, list(dict.fromkeys(metrics)), changes).run()


class _Watch:
  """What is known of the run, and what was measured of it."""

  def __init__(self, folder: pathlib.Path, out: pathlib.Path, metrics: list[str], changes: Mapping[str, Any]):
    self._folder, self._out, self._metrics, self._changes = folder, out, metrics, changes
    rows = list(read_rows(out))
    self._done = {name: {row["step"] for row in rows if _seconds(name) in row} for name in metrics}
    self._last = max((row["step"] for row in rows), default=0)
    self._damaged: set[int] = set()
    self._curves: dict[str, list[Curve]] = {}

  def run(self) -> None:
    """As `watch`."""
    if self._wait("a run to begin", lambda: (self._folder / CONFIG).is_file()) and self._follow():
      return
    say(f"stopped; the same command goes on{signals.command()}")

  def _follow(self) -> bool:
    """Whether the run has ended; False where a signal came first."""
    run = read_spec(RunSpec, self._folder / CONFIG, formats.Kind.RUN)
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, **{"phases": (), **self._changes}))
    self._claim(run)
    with MetricWriter(self._out, from_step=self._last) as writer:
      while not signals.asked():
        ended = self._ended()  # before the look at its checkpoints, of which the last comes first
        if step := next(self._todo(), 0):
          self._measure(run, step, writer)
        elif ended:
          say(f"the run is {ended}: {len(set.intersection(*self._done.values()))} checkpoints are measured in {self._out}")
          return True
        else:
          self._wait(f"a checkpoint after step {max(finished_steps(self._folder), default=0)}", lambda: any(self._todo()) or self._ended())
    return False

  def _todo(self) -> Iterator[int]:
    """Steps of checkpoints that are there and not measured by every metric, the oldest first."""
    there = sorted(finished_steps(self._folder))
    return (step for step in there if step not in self._damaged and any(step not in done for done in self._done.values()))

  def _ended(self) -> str:
    """How the run ended, in a word; empty while it goes on, or after it was killed."""
    try:
      return read_mapping(self._folder / STATUS, formats.Kind.DATA).get("state", "")
    except FileNotFoundError:
      return ""

  def _wait(self, what: str, there: Callable[[], Any]) -> bool:
    """Whether it is there; False where a signal came first. A line says for what it waits, if it does."""
    if there():
      return True
    say(f"waiting for {what} in {self._folder}")
    looked = time.monotonic()
    while not signals.asked():
      time.sleep(NAP_SECONDS)
      if time.monotonic() - looked >= POLL_SECONDS:
        if there():
          return True
        looked = time.monotonic()
    return False

  def _claim(self, run: RunSpec) -> None:
    """Notes what the figures in the folder are of; UserError where they are of something else."""
    train = run.train
    names = ("adherence_prompts", "fvd_clips", "sample_steps", "seed")
    record = dict(run=str(self._folder), stage=run.stage, **{name: getattr(train, name) for name in names})
    path = self._out / WATCHED
    if path.is_file():
      have = read_mapping(path, formats.Kind.REPORT)
      for name, value in record.items():
        if have.get(name) != value:
          have, want = f"{name}={have.get(name)}", f"{name}={value}"
          raise UserError(f"--out={self._out} has figures of {have}, these would be of {want}: expected another folder")
    else:
      write_whole(path, json.dumps(formats.stamped(record), indent=1) + "\n")

  def _measure(self, run: RunSpec, step: int, writer: MetricWriter) -> None:
    """Logs and prints the figures of a checkpoint, one metric after the other; one that is gone or damaged is passed over, and said."""
    try:
      spec, ema, _ = load_ema(self._folder / FOLDER / str(step))
    except Damaged as error:
      self._damaged.add(step)
      return say(str(error))
    except UserError:
      if step in finished_steps(self._folder):
        raise
      return say(f"the checkpoint of step {step} is gone: the run keeps later ones")
    for metric in self._metrics:
      if step in self._done[metric] or signals.asked():
        continue
      started = time.monotonic()
      found: dict[str, float] = {}
      for curve in self._curves_of(metric, run, spec):
        found |= curve(step, _Ema(ema))
      writer.write_scalars(step, found | {_seconds(metric): time.monotonic() - started})
      writer.flush()
      self._done[metric].add(step)
      shown = ", ".join(f"{name} {value:.4g}" for name, value in found.items() if name.endswith(CURVES[metric].headline))
      print(f"step {step}: {shown} ({time.monotonic() - started:.0f} s)", flush=True)

  def _curves_of(self, metric: str, run: RunSpec, spec: StageSpec) -> list[Curve]:
    """A metric's curves, which all checkpoints share: made once. UserError where the stage has none."""
    if metric not in self._curves:
      made = CURVES[metric].make(Stage(spec), run, open_text(run, pool=False))
      if not made:
        raise UserError(f"--watch with metric {metric}: stage {spec.name} was trained on clips too short for it")
      self._curves[metric] = made
    return self._curves[metric]


def _seconds(metric: str) -> str:
  """The figure that says that a metric is there, and what it cost."""
  return f"watch/{metric}_seconds"
