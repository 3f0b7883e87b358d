"""Which checkpoints a run's work folder keeps, and paths that name one of them."""

from __future__ import annotations

import pathlib

from ivid.media.places import is_remote, open_folder
from ivid.spec.errors import UserError

FOLDER = "checkpoints"  # of a work folder
MOST_SHOWN = 20  # steps in an error
NAME = "work folder"  # in errors


def place(workdir: str | pathlib.Path) -> pathlib.Path:
  """The absolute path of a work folder, local or in a bucket. Raises the errors of ivid.media.places.open_folder."""
  return open_folder(workdir, NAME) if is_remote(workdir) else pathlib.Path(workdir).resolve()


def is_run(folder: str | pathlib.Path) -> bool:
  """Whether this is the work folder of a run that has saved something, or the folder of one of its checkpoints."""
  return (run_and_step(folder)[0] / FOLDER).is_dir()


def run_and_step(path: str | pathlib.Path) -> tuple[pathlib.Path, int | None]:
  """The work folder and the step that a path names: runs/base/checkpoints/10 is step 10 of runs/base; None: no step in particular."""
  path = open_folder(path, NAME)
  one = path.parent.name == FOLDER and path.name.isascii() and path.name.isdecimal() and not (path / FOLDER).is_dir()
  return (path.parents[1], int(path.name)) if one else (path, None)


def check_kept(workdir: str | pathlib.Path, step: int, said: str) -> None:
  """Raises UserError, which names the steps that are kept, if the checkpoint of this step is not. `said`: the flag that asked for it."""
  kept = finished_steps(workdir)
  if not kept:
    raise UserError(f"{said}: {no_checkpoint(workdir)}")
  if step not in kept:
    near = min(kept, key=lambda have: (abs(have - step), have))
    raise UserError(
      f"{said}: {workdir} keeps the checkpoints of steps {shown_steps(sorted(kept))}: expected one of them, the nearest is {near}"
    )


def shown_steps(steps: list[int]) -> str:
  """Steps as text for one line; only both ends of a long list."""
  words = [str(step) for step in steps]
  return ", ".join(words if len(words) <= MOST_SHOWN else [*words[: MOST_SHOWN // 2], "...", *words[-MOST_SHOWN // 2 :]])


def latest_step(workdir: str | pathlib.Path) -> int:
  """The step of a run's latest finished checkpoint; 0 if there is none."""
  return max(finished_steps(workdir), default=0)


def finished_steps(workdir: str | pathlib.Path) -> list[int]:
  """The steps of a run's finished checkpoints, newest first."""
  from orbax.checkpoint.path import step as step_folders  # takes a second to import, and sampling a cascade needs none

  folder = place(workdir) / FOLDER
  return sorted(step_folders.checkpoint_steps(folder), reverse=True) if folder.is_dir() else []


def no_checkpoint(workdir: str | pathlib.Path) -> str:
  """The message for a folder without checkpoints."""
  folder = place(workdir) / FOLDER
  students = sorted(path.parent.name for path in folder.parent.glob(f"*/{FOLDER}"))
  hint = f" (a distillation: one of its folders {', '.join(students)})" if students else ""
  return f"no checkpoint in {folder}: expected the work folder of a run that has saved at least once{hint}"
