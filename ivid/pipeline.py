"""A cascade in Python: prompts in, clips out; what `ivid sample` calls.

import ivid

cascade = ivid.load("nano")
clip, = cascade.sample("a large red circle moves left on a black background", stop="ssr1", seed=1, steps={"base": 16})
clip.save("circle.mp4")
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ivid.media.clips import write_clip
from ivid.media.files import write_whole
from ivid.runs.bundling import open_named
from ivid.runs.cache import enable_compilation_cache
from ivid.sample.given import Frames
from ivid.sample.meshes import Meshes
from ivid.sample.outputs import load_metadata
from ivid.sample.plan import Overrides
from ivid.sample.requests import Draw, Request, make_request, repeat_request
from ivid.spec.cascade import CascadeSpec
from ivid.spec.errors import UserError
from ivid.weights.cascades import CascadeFolder


@dataclasses.dataclass(frozen=True)
class Clip:
  """A clip that a stage made.

  Attributes:
    frames: [T, H, W, 3] uint8.
    fps: frames per second.
    stage: name of the stage.
    prompt: what it was asked to show, or empty.
    metadata: everything that determines it; `Cascade.repeat` makes it again from this.
  """

  frames: np.ndarray
  fps: float
  stage: str
  prompt: str
  metadata: dict[str, Any]

  def save(self, path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes the clip, with its metadata in it and as JSON beside it, in the format of the suffix: .mp4, .webm, .gif, .png (lossless).

    Raises:
      UserError: the suffix, the size or the folder cannot be written.
    """
    path = pathlib.Path(path)
    write_clip(path, self.frames, self.fps, metadata=self.metadata)
    write_whole(path.with_suffix(".json"), json.dumps(self.metadata, indent=1) + "\n")
    return path


class Cascade:
  """An opened cascade. Weights are read stage by stage while sampling, and are not kept."""

  def __init__(self, folder: CascadeFolder):
    self.folder = folder

  @property
  def spec(self) -> CascadeSpec:
    """All its stages, trained or not."""
    return self.folder.spec

  @property
  def trained(self) -> tuple[str, ...]:
    """Names of the stages whose weights it has."""
    return tuple(name for name in self.spec.stage_names if self.folder.trained(name))

  def sample(
    self,
    prompts: str | Sequence[str],
    *,
    seed: int = 0,
    num_samples: int = 1,
    progress: bool = False,
    **options: Any,
  ) -> list[Clip]:
    """The last stage's clips: `num_samples` per prompt, prompt by prompt.

    A clip only depends on its prompt, the seed and its sample number, not on what else is in the call.

    Args:
      prompts: what the clips show; an empty string means no text.
      progress: whether to show a bar.
      options: as in `request`.

    Raises:
      UserError: before anything is computed, if a stage or an option is impossible.
    """
    request = self.request(prompts, seed=seed, num_samples=num_samples, **options)
    last = request.stages[-1].name
    return [clip for clip in self.run(request, progress=progress) if clip.stage == last]

  def stages(self, prompts: str | Sequence[str], *, progress: bool = False, **options: Any) -> Iterator[Clip]:
    """Like `sample`, but yields the clips of every stage as they are finished, stage by stage."""
    return self.run(self.request(prompts, **options), progress=progress)

  def repeat(self, metadata: dict[str, Any] | str | os.PathLike[str], *, mesh: Meshes | None = None, progress: bool = False) -> Clip:
    """A clip again, to the last bit on the same machine, from its metadata: as a dictionary, the JSON beside it, or the clip itself.

    Args:
      mesh: other devices than those on which it was made, as in `request`; the result is the same to float32 rounding.

    Raises:
      UserError: there are no metadata of ivid, the weights or the clip to start from have changed, or there are fewer devices.
    """
    said_by = "the metadata" if isinstance(metadata, dict) else os.fspath(metadata)
    metadata = metadata if isinstance(metadata, dict) else load_metadata(said_by)
    request = repeat_request(self.folder, metadata, said_by=said_by, mesh=mesh)
    return next(clip for clip in self.run(request, progress=progress) if clip.stage == request.stages[-1].name)

  def request(
    self,
    prompts: str | Sequence[str],
    *,
    seed: int = 0,
    num_samples: int = 1,
    negative_prompt: str = "",
    size: tuple[int, int] | None = None,
    start: str = "",
    stop: str = "",
    input: str | os.PathLike[str] | np.ndarray | None = None,
    first_frame: Frames | None = None,
    given: Frames | tuple[Frames, Iterable[int]] | None = None,
    seconds: float | None = None,
    batch_size: int = 0,
    mesh: Meshes | None = None,
    **overrides: Any,
  ) -> Request:
    """What `sample` would run, checked, but without computing anything.

    Args:
      negative_prompt: what guidance leads away from, instead of from empty text.
      size: height and width of the last stage's clips, if its network and those before allow it; None: its own size.
      start, stop: first and last stage; default: the first one, and the last trained one of the chain.
      input: clip from which a super-resolution stage starts: a file of any size, rate and length, or frames uint8 [t, h, w, 3] at the
        stage's own rate.
      first_frame: picture with which the clip starts: a file, or uint8 [h, w, 3]. The base keeps it unchanged, at the base's size.
      given: frames that are given to the base: a clip's file, "clip.mp4:0-4,12" or (clip, numbers), where the clip may be frames uint8
        [t, h, w, 3] at the base's rate, and the numbers are those of the base's frames; without numbers, all frames of the clip.
      seconds: length of the clip, to a frame of the base; None: the length that the base was trained for.
      batch_size: clips computed together; 0: one per local device, or per part into which the mesh cuts a batch.
      mesh: devices that share a batch or, by frames and height, each clip: {"frames": 4}, "frames=4", an ivid.spec.run.MeshSpec, or a
        mesh of ivid.parallel.mesh.make_mesh; None: as many local devices as divide a batch.
      overrides: steps, sampler, guidance, threshold, aug_snr, tile, as in ivid.sample.plan.Overrides: a value for all stages, or a mapping.

    Raises:
      UserError: as `sample`.
    """
    known = [field.name for field in dataclasses.fields(Overrides)]
    for name in overrides:
      if name not in known:
        raise TypeError(f"unknown option {name!r}: expected one of {', '.join(known)}")
    draw = Draw((prompts,) if isinstance(prompts, str) else tuple(prompts), seed=seed, count=num_samples, negative=negative_prompt)
    if not draw.prompts:
      raise UserError("no prompt: expected a description of the clip")
    options: dict[str, Any] = dict(start=start, stop=stop, first=input, first_frame=first_frame, given=given, seconds=seconds)
    options |= dict(batch_size=batch_size, mesh=mesh, size=size)
    return make_request(self.folder, draw, overrides=Overrides(**overrides), **options)

  def run(self, request: Request, *, progress: bool = False) -> Iterator[Clip]:
    """Yields the clips of a request as they are finished, stage by stage."""
    enable_compilation_cache()
    for made in request.run(quiet=not progress):
      if made.index in request.keep:
        yield Clip(made.frames, made.stage.output.fps, made.stage.name, request.samples[made.index].prompt, request.metadata(made))


def load(name: str | os.PathLike[str] = "nano") -> Cascade:
  """The cascade in a folder, the shipped one of that name or, for a work folder, a cascade with its stage.

  Raises:
    UserError: there is none.
  """
  return Cascade(open_named(os.fspath(name)))
