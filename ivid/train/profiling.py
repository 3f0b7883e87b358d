"""A trace of a few updates, for xprof."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile

import jax

from ivid.media.places import is_remote, upload_folder
from ivid.spec.errors import UserError, first_line

FOLDER = "profile"  # in a work folder: plugins/profile/<time>/<host>.xplane.pb and .trace.json.gz


class Profiler:
  """Traces the updates whose indices are in `steps`, in process 0; the trace shows the work of its devices."""

  def __init__(self, workdir: pathlib.Path, steps: range | None, *, active: bool = True):
    self._folder = workdir / FOLDER
    self._here: tempfile.TemporaryDirectory | None = None
    self._left = steps if active and steps else range(0)
    self._tracing = False

  def begins(self, step: int) -> bool:
    """Whether the trace begins before the update that follows `step` updates."""
    return step in self._left and not self._tracing

  def ends(self, step: int) -> bool:
    """Whether the trace ends after `step` updates."""
    return self._tracing and step not in self._left

  def begin(self) -> None:
    """Begins the trace. The caller must have waited for the work of earlier updates."""
    try:
      if is_remote(self._folder):  # JAX only writes to this machine
        self._here = tempfile.TemporaryDirectory()
      else:
        self._folder.mkdir(parents=True, exist_ok=True)
      jax.profiler.start_trace(str(self._folder) if self._here is None else self._here.name)
    except OSError as error:
      raise UserError(f"cannot write a trace in {self._folder}: {error.strerror or error}") from None
    self._tracing = True

  def close(self) -> None:
    """Ends the trace, if there is one, and writes it."""
    if not self._tracing:
      return
    self._tracing, self._left = False, range(0)
    try:
      jax.profiler.stop_trace()
    except (OSError, RuntimeError) as error:
      raise UserError(f"cannot write a trace in {self._folder}: {first_line(error)}") from None
    if self._here is not None:
      upload_folder(pathlib.Path(self._here.name), str(self._folder), last="")
      self._here.cleanup()

  def __enter__(self) -> Profiler:
    return self

  def __exit__(self, kind: object, *_: object) -> None:
    with contextlib.suppress(*() if kind is None else (UserError,)):  # what ends the run is said already
      self.close()
