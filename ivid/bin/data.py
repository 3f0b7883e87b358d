"""Look at what a stage's model sees, or write clips as ArrayRecord.

ivid data inspect --config=nano:ssr1 --out=sheet.png
ivid data prepare --out=DIR --num_clips=1000 --size=16x24x40
ivid data prepare --out=DIR --input=FOLDER --size=16x24x40 --fps=3
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

from absl import flags

from ivid.bin.config import define_config, load_run, parse_flags, split_overrides
from ivid.spec.clip import ClipShape
from ivid.spec.errors import nearest

COMMANDS = ("inspect", "prepare")


def define_flags(values: flags.FlagValues) -> None:
  define_config(values)
  flags.DEFINE_string("out", None, "inspect: the .png to write. prepare: the folder of TFDS data sets (data.dir).", flag_values=values)
  flags.DEFINE_integer("num_clips", None, "inspect: rows to show (4). prepare: clips to draw (1000).", flag_values=values)
  flags.DEFINE_integer("num_test", 100, "prepare: clips of the test split.", flag_values=values)
  flags.DEFINE_string("size", "16x24x40", "prepare: frames x height x width.", flag_values=values)
  flags.DEFINE_float("fps", None, "prepare: frames per second (default: the clip lasts 5.33 s).", flag_values=values)
  flags.DEFINE_integer("seed", 0, "prepare: of the scenes.", flag_values=values)
  flags.DEFINE_string("input", None, "prepare: a folder of clips, each with its caption in a .txt file beside it.", flag_values=values)
  flags.DEFINE_enum("split", "train", ["train", "eval", "held_out"], "inspect: what to show.", flag_values=values)


def main(argv: Sequence[str]) -> None:
  plain, overrides = split_overrides(argv)
  program, *rest = plain
  command = next((word for word in rest if not word.startswith("-")), "")
  if command not in COMMANDS:
    raise ValueError(f"ivid data {command!r}: {nearest(command, COMMANDS)}")
  rest.remove(command)
  values = parse_flags([program, *rest], define_flags)
  if not values.out:
    raise ValueError(f"--out is missing: expected {'a .png file' if command == 'inspect' else 'a folder'}")
  if command == "inspect":
    _inspect(values, overrides)
  else:
    _prepare(values)


def _inspect(values: flags.FlagValues, overrides: Sequence[str]) -> None:
  from ivid.bin.inspection import stage_sheet  # starts JAX
  from ivid.data.pipeline import Split
  from ivid.media.pictures import write_png

  out = pathlib.Path(values.out)
  if out.suffix != ".png":
    raise ValueError(f"--out={values.out}: expected a name ending in .png, such as {out.with_suffix('.png')}")
  run = load_run(values.config, overrides)
  write_png(out, stage_sheet(run, split=Split(values.split), count=values.num_clips or 4))
  print(f"wrote {out}")


def _prepare(values: flags.FlagValues) -> None:
  shape = clip_shape(values.size, values.fps)
  out = pathlib.Path(values.out)
  from ivid.data import moving_shapes_builder as builders  # TFDS takes seconds to import

  name = f"{shape.frames}x{shape.height}x{shape.width}"
  if values.input:
    config = builders.ClipFolderConfig(name=name, folder=values.input, clip=shape)
    builder = builders.ClipFolder(data_dir=out, config=config)
  else:
    config = builders.MovingShapesConfig(
      name=name, clip=shape, num_clips=values.num_clips or 1000, num_test=values.num_test, seed=values.seed
    )
    builder = builders.MovingShapes(data_dir=out, config=config)
  folder = builders.prepare(builder)
  print(f"wrote {folder}; read it with --config.data.name=tfds:{builder.name}/{name} --config.data.dir={out}")


def clip_shape(size: str, fps: float | None) -> ClipShape:
  """The clip that --size and --fps describe; without a rate, one that lasts as long as moving_shapes."""
  match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", size)
  if not match:
    raise ValueError(f"--size={size}: expected frames x height x width, such as 16x24x40")
  from ivid.data.moving_shapes import CLIP_SECONDS

  frames, height, width = map(int, match.groups())
  return ClipShape(frames, height, width, fps or frames / CLIP_SECONDS)
