"""Seeded edits of valid files, one after the other, and what becomes of each."""

from __future__ import annotations

import collections
import pathlib
import random
import shutil
from collections.abc import Callable, Container

from tests.faults.edits_media import edit_file


def try_edits(
  name: str,
  count: int,
  valid: pathlib.Path,
  edited: tuple[str, ...],
  judge: Callable[[pathlib.Path], tuple[str, str]],
  *,
  folder: pathlib.Path,
  fine: Container[str],
) -> tuple[collections.Counter, list[str]]:
  """Makes `count` edits of copies of valid files, and writes outcomes.txt, a line for each.

  Args:
    name: begins the seed of each edit.
    edited: patterns of the files that are edited.
    judge: folder of the edited files -> kind of outcome, and what to say of it.
    folder: of the copies, each of which goes when it is judged.
    fine: kinds that are no fault.

  Returns: how often each kind was found, and the lines of those that are faults.
  """
  found, failed, said = collections.Counter(), [], []
  for number in range(count):
    rng, copy = random.Random(f"{name}-{number}"), folder / str(number)
    shutil.copytree(valid, copy)
    path = rng.choice(sorted(path for path in copy.glob(rng.choice(edited)) if path.is_file()))
    how = edit_file(path, rng)
    kind, message = judge(copy)
    found[kind] += 1
    said.append(f"{name}-{number}: {path.relative_to(copy)}, {how}: {kind}: {message}".replace("\n", "\n  "))
    failed += said[-1:] if kind not in fine else []
    shutil.rmtree(copy)
  (folder / "outcomes.txt").write_text("\n".join(said), encoding="utf-8", errors="backslashreplace")
  return found, failed
