"""Samples clips from a cascade: prompts in, an .mp4 and a .json for each out.

ivid sample --prompt="a large red circle moves left on a black background"
ivid sample --cascade=DIR --prompts_file=F --seed=1 --num_samples=4 --steps=base=64,ssr1=16 --out=DIR
ivid sample --input=clip.mp4 --start_stage=ssr2 --caption="a large red circle moves left on a black background"
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from ivid.bin.flags import define_fields, define_shares, parse_flags, read_share
from ivid.bin.options import DEFAULT_CASCADE, MESH, NAMES, STARTS, define_options, read_options
from ivid.spec.errors import UsageError
from ivid.spec.request import RequestOptions

if TYPE_CHECKING:  # imported where they are used, so that a wrong flag is answered at once
  from ivid.sample.outputs import Outputs
  from ivid.sample.requests import Request

CHOSEN = ("prompt", "prompts_file", "seed", "num_samples", "first_sample", "caption", "start_stage", "stop_stage", "batch_size")
WHOLE = ("negative_prompt", "size", "process", "multihost")
DECIDED = (*CHOSEN, *STARTS, *NAMES, *WHOLE)  # by metadata; given beside --from_metadata they would contradict it


def define_flags(values: flags.FlagValues) -> None:
  """Adds the flags of `ivid sample`."""
  f: dict[str, Any] = dict(flag_values=values)
  flags.DEFINE_multi_string("prompt", [], "What the clip shows; may be given several times.", **f)
  flags.DEFINE_string("prompts_file", "", "Text file (UTF-8) with a prompt per line; blank lines are skipped.", **f)
  flags.DEFINE_string("cascade", "", f"Folder of a cascade, or the name of one that ships (default: {DEFAULT_CASCADE}).", **f)
  flags.DEFINE_integer("seed", 0, "A clip only depends on seed, prompt and sample number, not on what else is in the run.", **f)
  flags.DEFINE_integer("num_samples", 1, "Clips per prompt.", **f)
  flags.DEFINE_integer("first_sample", 0, "Number of the first sample; samples n to n + k are the same in every run.", **f)
  define_options(values, (*NAMES, *STARTS))
  define_fields(values, RequestOptions)
  define_shares(values)
  flags.DEFINE_string("start_stage", "", "First stage to run; one that has an input takes it from --input.", **f)
  flags.DEFINE_string("stop_stage", "", "Last stage to run (default: the last trained one of the chain).", **f)
  flags.DEFINE_string("input", "", "Clip from which --start_stage starts, of any size, rate and length: it is fitted to the stage.", **f)
  flags.DEFINE_string("caption", "", "What --input shows; may be left out.", **f)
  flags.DEFINE_string("out", "out", "Folder, or a file for one clip. No file is lost: if a name is taken, the new file gets a number.", **f)
  flags.DEFINE_string("format", "", "mp4, webm, gif or png (all frames in one picture, lossless); default: that of --out, else mp4.", **f)
  flags.DEFINE_bool("overwrite", False, "Replace files that are in the way instead of numbering the new ones.", **f)
  flags.DEFINE_bool("save_stages", False, "Save the clip of every stage; with --format=png, continuing from one is exact.", **f)
  flags.DEFINE_bool("contact_sheet", False, "Also save one picture with frames of all clips.", **f)
  flags.DEFINE_string("from_metadata", "", "Make a clip again, bit for bit on the same machine: its .json, or the clip itself.", **f)
  flags.DEFINE_integer("batch_size", 0, "Clips computed together; 0: one per device.", **f)
  flags.DEFINE_string("mesh", "", f"{MESH} With --from_metadata: other devices, for the same clip up to rounding.", **f)


def main(argv: Sequence[str]) -> int:
  """Samples as the flags in argv (program name first) say. Wrong input is a UserError before any work is done."""
  values = parse_flags(argv, define_flags).flags
  if values.from_metadata:
    given = [name for name in DECIDED if values[name].present]
    if given:
      raise UsageError(f"--{given[0]} beside --from_metadata: the metadata decides it")
  process = None if values.from_metadata else read_share(values)
  for name in ("contact_sheet", "overwrite"):
    if process and values[name].value:
      raise UsageError(f"--{name} beside --process: expected one of them, as clips that are there stay and none is held")
  prompts = [] if values.from_metadata else _prompts(values)
  from ivid.runs.cache import enable_compilation_cache
  from ivid.sample.outputs import Outputs

  enable_compilation_cache()
  request = _repeated(values) if values.from_metadata else _request(values, prompts)
  outputs = Outputs(values.out, values.format, clips=len(request.keep), overwrite=values.overwrite, names=values.names)
  outputs.check(list(request.stages) if values.save_stages else [request.stages[-1]], request.samples)
  return _save(request, outputs, values, process)


def _prompts(values: flags.FlagValues) -> list[str]:
  """Prompts of the flags and the file; an empty one, no text, for an input clip of which nothing is said."""
  if values.caption and not values.input:
    raise UsageError(f"--caption={values.caption!r} says what --input shows: expected --prompt, or --input too")
  prompts = [*values.prompt, *([values.caption] if values.caption else [])]
  for prompt in prompts:
    if not prompt.strip():
      raise UsageError(f"--prompt={prompt!r} is empty: expected a description of the clip")
  if values.prompts_file:
    from ivid.sample.prompts import read_prompts

    prompts += read_prompts(values.prompts_file)
  if not prompts and not values.input:
    raise UsageError("no prompt: expected --prompt='what the clip shows', or --prompts_file")
  return prompts or [""]


def _request(values: flags.FlagValues, prompts: Sequence[str]) -> Request:
  from ivid.runs.bundling import open_named
  from ivid.sample.requests import Draw, make_request
  from ivid.sample.sizes import read_size

  draw = Draw(tuple(prompts), values.seed, values.first_sample, values.num_samples, values.negative_prompt)
  overrides, cascade = read_options(values), open_named(values.cascade or DEFAULT_CASCADE)
  given = dict(start=values.start_stage, stop=values.stop_stage, first=values.input, batch_size=values.batch_size, mesh=values.mesh)
  given |= {name: values[name].value for name in STARTS}
  request = make_request(cascade, draw, overrides=overrides, size=read_size(values.size), **given)
  last = request.stages[-1].name
  if not values.stop_stage and last != cascade.spec.stage_names[-1]:
    print(f"stopping at {last}, the last trained stage of cascade {cascade.spec.name}", file=sys.stderr)
  for note in request.notes:
    print(note, file=sys.stderr)
  return request


def _repeated(values: flags.FlagValues) -> Request:
  from ivid.runs.bundling import open_named
  from ivid.sample.outputs import load_metadata
  from ivid.sample.requests import repeat_request

  metadata = load_metadata(values.from_metadata)
  cascade = open_named(values.cascade or metadata["cascade"]["name"])
  return repeat_request(cascade, metadata, values.input, said_by=values.from_metadata, mesh=values.mesh)


def _save(request: Request, outputs: Outputs, values: flags.FlagValues, process: tuple[int, int] | None) -> int:
  """Samples and saves; Ctrl-C leaves the clips of finished stages and says how to go on from them. Returns the exit status."""
  from ivid.sample.saving import Interrupted, how_to_go_on, save_clips
  from ivid.sample.share import save_share

  try:
    share = process and save_share(request, outputs, process, every_stage=values.save_stages)
    for path in share or save_clips(request, outputs, every_stage=values.save_stages, sheet=values.contact_sheet):
      print(path, flush=True)
  except Interrupted as interrupted:
    kept = [name for name in ("out", "format", "names", *WHOLE) if values[name].present]
    given: dict[str, Any] = {name: values[name].value for name in (*NAMES, *kept)}
    print(*how_to_go_on(request, outputs, interrupted, given), sep="\n", file=sys.stderr)
    return 130  # as shells have it
  return 0
