"""Edited files at every door: one line or taken, never a traceback, a wait without end, or memory beyond the door's limit.

The default run makes a few edits at each door; `-m slow` makes SLOW of them, and says in outcomes.txt of its temporary folder what became
of each. An edit that fails is made again by its number: `random.Random(f"{door}-{number}")`.
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import random
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest

from ivid.spec.errors import UserError
from tests.faults import edits, edits_media
from tests.faults.doors import DOORS, Door
from tests.faults.edited import try_edits
from tests.faults.edits_media import MP4_KINDS, PNG_KINDS

FEW, SLOW = 8, 1000
SECONDS = 20  # for one file
MEMORY = 3 << 30  # bytes of addresses beyond those that the tests have, above every door's limit
STATM = pathlib.Path("/proc/self/statm")
OUTCOMES = ("refused", "accepted", "traceback", "hang", "over memory")
FINE = OUTCOMES[:2]


class Hang(Exception):
  """A file took longer than SECONDS."""


@contextlib.contextmanager
def limits() -> Iterator[None]:
  """SECONDS, after which a Hang is raised, and MEMORY, beyond which a MemoryError is."""

  def ring(number, frame):
    raise Hang

  before, old = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, ring)
  if STATM.exists():
    resource.setrlimit(resource.RLIMIT_AS, (pages(0) + MEMORY, before[1]))
  signal.alarm(SECONDS)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)
    resource.setrlimit(resource.RLIMIT_AS, before)


def pages(column: int) -> int:
  """Bytes of this process: 0 of addresses, 1 in memory."""
  return int(STATM.read_text().split()[column]) * resource.getpagesize()


def outcome(door: Door, folder: pathlib.Path) -> tuple[str, str]:
  """What becomes of files, one of OUTCOMES; and the message, or a hash of what was read."""
  most, now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, pages(1) if STATM.exists() else 0
  try:
    with limits(), warnings.catch_warnings():
      warnings.simplefilter("ignore")
      found = "accepted", digest(door.read(folder))
  except UserError as error:
    found = "refused", str(error)
  except Hang:
    return "hang", ""
  except MemoryError:
    return "over memory", traceback.format_exc()
  except Exception:
    return "traceback", traceback.format_exc()
  taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - max(most, now)
  if STATM.exists() and (taken > door.memory or "annot allocate memory" in found[1]):
    return "over memory", f"{taken >> 20} MB more; {found}"
  return found


def digest(value: object) -> str:
  """A hash of arrays and of what else is in lists, tuples and trees."""
  made = hashlib.sha256()
  for leaf in jax.tree.leaves(value):
    array = isinstance(leaf, np.ndarray | jax.Array)
    made.update(f"{leaf.dtype} {leaf.shape}".encode() + np.asarray(leaf).tobytes() if array else repr(leaf).encode())
  return made.hexdigest()[:8]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[[str], pathlib.Path]:
  """The valid files of a door; doors that share what makes them share them."""
  folders: dict[Callable[[pathlib.Path], None], pathlib.Path] = {}

  def get(name: str) -> pathlib.Path:
    make = DOORS[name].make
    if make not in folders:
      folders[make] = tmp_path_factory.mktemp("door")
      make(folders[make])
    return folders[make]

  return get


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("name", DOORS)
def test_edits_of_valid_files(name, many, made, tmp_path, capsys):
  door, valid = DOORS[name], made(name)
  count = SLOW if many else FEW
  kind, same = outcome(door, valid)
  assert kind == "accepted"

  def judge(folder):
    kind, message = outcome(door, folder)
    return kind, message if kind != "accepted" else "as the valid one" if message == same else "other"

  found, failed = try_edits(name, count, valid, door.edited, judge, folder=tmp_path, fine=FINE)
  if many:
    with capsys.disabled():
      print(f"\n{name}: {count} edits, " + ", ".join(f"{kind} {found[kind]}" for kind in OUTCOMES))
  assert not failed, f"{len(failed)} of {count}\n" + "\n".join(failed[:5])
  assert found["refused"]


def test_an_edit_follows_from_its_generator():
  value = {"a": [1, {"b": "c"}], "d": None}
  assert [edits.edit_json(value, random.Random(n)) for n in range(50)] == [edits.edit_json(value, random.Random(n)) for n in range(50)]
  kinds = {edits.edit_json(value, random.Random(n))[1].partition(" at ")[0] for n in range(300)}
  assert kinds == set(edits.KINDS) and value == {"a": [1, {"b": "c"}], "d": None}
  data = bytes(range(100))
  assert sum(edits.edit_bytes(data, random.Random(n))[0] != data for n in range(100)) > 90


def joined_png(data: bytes) -> bytes:
  return edits_media.SIGNATURE + b"".join(edits_media.png_chunk(*chunk) for chunk in edits_media.png_chunks(data))


def joined_mp4(data: bytes) -> bytes:
  return b"".join(map(bytes, edits_media.boxes(data)))


@pytest.mark.parametrize(
  ("name", "edit", "kinds", "joined"),
  [("png", edits_media.edit_png, PNG_KINDS, joined_png), ("mp4", edits_media.edit_mp4, MP4_KINDS, joined_mp4)],
)
def test_edits_of_clips_get_behind_the_sums_and_lengths(name, edit, kinds, joined, made):
  data = (made(name) / f"clip.{name}").read_bytes()
  found = [edit(data, random.Random(n)) for n in range(200)]
  assert found == [edit(data, random.Random(n)) for n in range(200)]
  assert all(any(said.startswith(kind) for _, said in found) for kind in kinds if kind != "bytes")
  right = [edited == joined(edited) for edited, said in found if said.startswith(("header: ", "drop of", "twice of", "swap of"))]
  assert len(right) > 20 and all(right)
