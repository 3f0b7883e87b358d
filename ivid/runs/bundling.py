"""Collects trained stages in a cascade's folder."""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping

from ivid.media.copies import local_copy
from ivid.media.places import is_remote, open_folder, upload_folder
from ivid.runs.workdir import CONFIG
from ivid.sample.cascades import write_cascade
from ivid.spec import formats
from ivid.spec.errors import UserError, nearest
from ivid.spec.files import read_spec
from ivid.spec.run import RunSpec
from ivid.text.encoder import load_encoder
from ivid.weights.cascades import CASCADE_FILE, CascadeFolder, open_cascade
from ivid.weights.kept import is_run, latest_step, run_and_step
from ivid.weights.opening import find_cascade, text_encoder_folder

CASCADE = "cascade"  # folder in a work folder for what `open_named` bundles


def bundle(
  run: RunSpec, workdirs: Mapping[str, str], out: str | os.PathLike[str], *, text: str = "", ema: float | None = None
) -> CascadeFolder:
  """Writes averaged weights and specs of stages to the cascade folder `out`, new or with other stages. `ivid bundle` calls this.

  Args:
    run: of any stage of the cascade.
    workdirs: work folder per stage, or the folder of one of its checkpoints, such as runs/base/checkpoints/10.
    text: folder of the text encoder, or the name of a shipped cascade; empty: the run's.
    ema: relative width of the average (ivid.weights.averages); None: the run's EMA.

  Raises:
    UserError: the cascade does not have the stage, or another run trained it; nothing is then changed.
  """
  from ivid.weights.averages import load_average
  from ivid.weights.ema import load_ema

  known = run.cascade.stage_names
  for name, workdir in workdirs.items():
    if name not in known:
      raise UserError(f"unknown stage {name!r} in {name}={workdir}: {nearest(name, known)}")
  folder = text_encoder_folder(text or run.data.text_encoder)
  load = load_ema if ema is None else functools.partial(load_average, width=ema)
  stages = {name: load(workdir) for name, workdir in workdirs.items()}
  cascade = run.cascade.with_text_encoder(load_encoder(folder).hash)
  if not is_remote(out):
    return write_cascade(out, cascade, stages, folder)
  target = open_folder(out, "--out")
  address = os.fspath(target)
  with tempfile.TemporaryDirectory() as place:
    here = pathlib.Path(place, "cascade")
    if (target / CASCADE_FILE).exists():
      shutil.copytree(local_copy(address, "--out"), here)
    write_cascade(here, cascade, stages, folder)
    upload_folder(here, address, last=CASCADE_FILE)
  return find_cascade(address)


def open_named(name: str) -> CascadeFolder:
  """The cascade of a folder or of a shipped name, or the trained stage of a work folder, which is bundled there once per checkpoint.

  The folder of one checkpoint stands for the work folder at that step.

  Raises:
    UserError: neither is there.
  """
  if is_remote(name):
    return find_cascade(name)
  workdir, step = run_and_step(name)
  if not (workdir / CONFIG).is_file() or not is_run(name):
    return find_cascade(name)
  run, folder = read_spec(RunSpec, workdir / CONFIG, formats.Kind.RUN), workdir / CASCADE
  if (folder / CASCADE_FILE).is_file():
    made = open_cascade(folder)
    if made.trained(run.stage) and made.check(run.stage).step == (step or latest_step(name)):
      return made
  return bundle(run, {run.stage: name}, folder)
