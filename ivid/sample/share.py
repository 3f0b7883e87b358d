"""A run of many prompts, cut into shares for processes that know nothing about each other except their common folder.

In the folder, run.json describes the run, and another run is refused. A clip's name contains the position of its prompt, so it is the same
at every start, and a clip that exists with its JSON is not made again. index.csv appears with the last clip. It follows from the run alone,
so any process that finds the folder complete may write it. Every process computes batches of the whole run, so the bytes depend neither on
the number of processes nor on what was already there.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import io
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from ivid.media.files import naming_errors, write_whole
from ivid.media.scratch import locked
from ivid.sample.groups import batches_of
from ivid.sample.outputs import Outputs
from ivid.sample.requests import Request
from ivid.sample.runner import Clip
from ivid.sample.saving import Interrupted, save_clips
from ivid.spec import formats
from ivid.spec.compare import first_difference
from ivid.spec.errors import UserError
from ivid.spec.files import parse_json, read_mapping

RUN_FILE, INDEX_FILE = "run.json", "index.csv"
COLUMNS = ("prompt", "seed", "sample", "file")
OF_A_CLIP = (formats.KEY, "prompt", "negative_prompt", "seed", "sample", "batch")  # of its metadata, what the run's record says otherwise


def save_share(request: Request, outputs: Outputs, process: tuple[int, int], *, every_stage: bool = False) -> Iterator[pathlib.Path]:
  """Samples and saves what is missing of one process's share, and yields the file names, including the index once all clips exist.

  Args:
    request: of the whole run.
    process: (index, count). Each process takes the batches whose number modulo count is its index.
    every_stage: whether to save what each stage makes, not the last one alone.

  Raises:
    UserError: the folder holds another run, or files of an unknown run.
    Interrupted: on Ctrl-C; the same call continues.
  """
  run = _Run(request, outputs.numbered({prompt: n for n, prompt in enumerate(dict.fromkeys(s.prompt for s in request.samples))}))
  run.begin()
  index, count = process
  mine = [n for batch in run.batches[index::count] for n in batch]
  missing = frozenset(n for n in mine if not run.is_made(n))
  said = f"process {index}/{count}: {len(mine)} of {len(request.samples)} clips"
  print(f"{said}, {len(mine) - len(missing)} of them there already" if mine else f"{said}: nothing to do", file=sys.stderr, flush=True)
  try:
    yield from save_clips(dataclasses.replace(request, keep=missing), run.outputs, every_stage=every_stage)
  except Interrupted as interrupted:
    raise Interrupted([], left=interrupted.left, resumes=True) from None
  if left := run.missing():
    print(f"{said} are there; {left} of other processes are missing: the last of them writes {INDEX_FILE}", file=sys.stderr, flush=True)
  else:
    yield run.write_index()


class _Run:
  """The whole run, as each of its processes sees it."""

  def __init__(self, request: Request, outputs: Outputs):
    self._request = request
    self.outputs = outputs
    self.batches = batches_of(len(request.samples), request.batch_size)

  def begin(self) -> None:
    """Writes the description of the run, or checks the one that is there."""
    path, record = self._path(RUN_FILE), self._record()
    with naming_errors(path.parent):
      path.parent.mkdir(parents=True, exist_ok=True)
      with locked(path.parent):
        ours = {INDEX_FILE, *(name for n in range(len(self._request.samples)) for name in self._names(n))}
        there = sorted(ours & {file.name for file in path.parent.iterdir()})  # listed first, because run.json is written before any of them
        if not path.exists():
          if there:
            raise UserError(f"{path.parent / there[0]} is there without a {RUN_FILE}, so of another run: expected a new --out")
          write_whole(path, json.dumps(formats.stamped(record), indent=1) + "\n")
    difference = first_difference(read_mapping(path, formats.Kind.SHARE), record)
    if difference:
      raise UserError(f"{path.parent} holds another run, with {difference}: expected a new --out, or the same prompts and options")

  def is_made(self, n: int) -> bool:
    """Whether the clip exists and its JSON says that it belongs to this run."""
    clip, beside = map(self._path, self._names(n))
    try:
      return clip.stat().st_size > 0 and parse_json(beside.read_bytes(), source=beside) == self._metadata(n)
    except (OSError, UserError):
      return False

  def missing(self) -> int:
    """Clips of the whole run that do not exist yet; a clip's JSON appears last."""
    there = {file.name for file in self.outputs.folder.iterdir()}
    return sum(not there.issuperset(self._names(n)) for n in range(len(self._request.samples)))

  def write_index(self) -> pathlib.Path:
    """Writes the table of all clips, which is the same whichever process writes it, and returns its name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for n, sample in enumerate(self._request.samples):
      writer.writerow((sample.prompt, sample.seed, sample.number, self._names(n)[0]))
    write_whole(self._path(INDEX_FILE), text.getvalue())
    return self._path(INDEX_FILE)

  def _path(self, name: str) -> pathlib.Path:
    return self.outputs.folder / name

  def _names(self, n: int) -> tuple[str, str]:
    stem = self.outputs.stem(self._request.samples[n])
    return f"{stem}.{self.outputs.suffix}", f"{stem}.json"

  def _record(self) -> dict[str, Any]:
    """What every process of the run, and every start, must have in common."""
    samples, first = self._request.samples, self._request.samples[0]
    listed = json.dumps([(s.prompt, s.number) for s in samples]).encode()
    common = {key: value for key, value in self._shared(len(self.batches[0])).items() if key not in OF_A_CLIP}
    return dict(
      seed=first.seed,
      negative_prompt=first.negative,
      batch_size=len(self.batches[0]),
      suffix=self.outputs.suffix,
      clips=len(samples),
      prompts_sha256=hashlib.sha256(listed).hexdigest(),
      **common,
    )

  def _metadata(self, n: int) -> dict[str, Any]:
    """The contents of a clip's JSON."""
    sample, size = self._request.samples[n], len(self.batches[0])
    rows = len(self.batches[n // size])
    own = dict(prompt=sample.prompt, sample=sample.number, batch={"size": rows, "row": n % size})
    return self._shared(rows) | own

  @functools.cache  # noqa: B019  a run lasts as long as its process
  def _shared(self, rows: int) -> dict[str, Any]:
    """The metadata that clips in a batch of this size share, as in JSON; read from the cascade's files once, not once per clip."""
    stage = self._request.stages[-1]
    return json.loads(json.dumps(self._request.metadata(Clip(stage, 0, np.empty(0, np.uint8), rows, 0))))
