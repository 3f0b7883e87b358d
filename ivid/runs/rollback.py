"""Going back to an earlier checkpoint of a run. Everything after it is set aside and never deleted."""

from __future__ import annotations

import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterator

from ivid.media.files import naming_errors, write_whole
from ivid.media.places import is_remote, move, naming_remote_errors
from ivid.runs.samples import SAMPLES
from ivid.spec import formats
from ivid.spec.files import read_mapping
from ivid.train.metrics import FILE, metrics_file, read_rows
from ivid.train.trackers import RUN_ID
from ivid.weights import ema
from ivid.weights.kept import check_kept, shown_steps

ASIDE = "set_aside"  # in a work folder: what came after a step to which a run went back, in folders like the work folder
MARK = "resumed.json"  # in a work folder: the step to which it last went back, and the config that asked for it


def step_to_resume(workdir: pathlib.Path, asked: int, config_json: str) -> int:
  """The step to which a command goes back; 0: none, so it continues from the last one.

  A command that is repeated after it has gone back continues and does not go back again, because launchers repeat commands. It counts as
  the same command as long as its config is the same.

  Args:
    asked: --resume_step.

  Raises:
    UserError: there is no such checkpoint; the error names those that are kept.
  """
  if not asked or _went_back(workdir) == _mark(asked, config_json):
    return 0
  check_kept(workdir, asked, f"--resume_step={asked}")
  return asked


def go_back(workdir: pathlib.Path, step: int, config_json: str) -> None:
  """Sets aside what a run has from later steps: checkpoints, snapshots, samples, and a copy of metrics.jsonl. One process calls this.

  If it is interrupted, the same command does the rest. In a bucket, where nothing can be renamed, it copies and removes.

  Raises:
    UserError: the folder cannot be written.
  """
  with (naming_remote_errors if is_remote(workdir) else naming_errors)(workdir / ASIDE):
    later = list(_later(workdir, step))
    rows = [row["step"] for row in read_rows(workdir) if row["step"] > step]
    if later or rows:
      names = itertools.chain([f"after_{step}"], (f"after_{step}-{n}" for n in itertools.count(2)))
      place = next(workdir / ASIDE / name for name in names if not (workdir / ASIDE / name).exists())
      place.mkdir(parents=True)
      if rows:
        with metrics_file(workdir) as file:
          write_whole(place / FILE, file.read_bytes())
      for path in later:
        target = place / path.relative_to(workdir)
        target.parent.mkdir(exist_ok=True)
        move(path, target)
      ema.say(f"going back to step {step}: {_told(workdir, later, rows)} set aside in {place}")
    if (workdir / RUN_ID).is_file() and (later or rows):  # the tracker starts new curves; the old ones stay as they are
      move(workdir / RUN_ID, place / RUN_ID)  # pyright: ignore[reportOperatorIssue]  bound by the first `if`
    write_whole(workdir / MARK, json.dumps(formats.stamped(_mark(step, config_json))) + "\n")


def _later(workdir: pathlib.Path, step: int) -> Iterator[pathlib.Path]:
  """Folders and files of later steps, newest checkpoints first, so that the remaining ones form a valid run at every moment."""
  for folder in (ema.FOLDER, ema.SNAPSHOTS, SAMPLES):
    found = [path for path in (workdir / folder).glob("*") if path.stem.isdecimal() and int(path.stem) > step]
    yield from sorted(found, key=lambda path: (-int(path.stem), path.name))


def _told(workdir: pathlib.Path, later: list[pathlib.Path], rows: list[int]) -> str:
  steps = sorted(int(path.name) for path in later if path.parent.name == ema.FOLDER)
  told = [f"the checkpoint{'s' * (len(steps) > 1)} of step{'s' * (len(steps) > 1)} {shown_steps(steps)}"] if steps else []
  told += [f"metrics up to step {max(rows)}"] if rows else []
  return " and ".join(told) or f"what {workdir} has of later steps"


def _mark(step: int, config_json: str) -> dict[str, int | str]:
  return {"step": step, "config": hashlib.sha256(config_json.encode()).hexdigest()}


def _went_back(workdir: pathlib.Path) -> dict[str, int | str]:
  path = workdir / MARK
  return read_mapping(path, formats.Kind.DATA) if path.is_file() else {}
