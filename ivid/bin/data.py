"""Look at what a stage's model sees, prepare clips and images as ArrayRecord, import text encoders, and embed captions once.

ivid data inspect --config=nano:ssr1 --out=sheet.png
ivid data prepare --out=DIR --num_clips=1000 --size=16x24x40
ivid data prepare --out=DIR --input=FOLDER_OR_LIST
ivid data import-t5 --from=CHECKPOINT --tokenizer=spiece.model --out=DIR
ivid data export-t5 --from=DIR --out=T5X/checkpoint_0
ivid data embed --config=imagen_video:base --config.data.name=tfds:NAME --config.data.text_encoder=DIR --out=DIR
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from ivid.bin.flags import define_config, define_fields, define_shares, fields_of, parse_flags, read_share
from ivid.config import load_run
from ivid.runs.cache import enable_compilation_cache
from ivid.spec.errors import UsageError, UserError, nearest
from ivid.spec.prepare import PrepareSpec
from ivid.weights.opening import text_encoder_folder

DTYPES = ("bfloat16", "float32")
OUT = {"inspect": "a .png file", "export-t5": "a new folder, such as T5X/checkpoint_0"}  # what --out is; a folder by default


def define_flags(values: flags.FlagValues) -> None:
  define_config(values)
  flags.DEFINE_string("out", None, "What to write: a .png (inspect), else a folder; for prepare, it is data.dir.", flag_values=values)
  flags.DEFINE_integer("num_clips", None, "inspect: rows to show (4). prepare: clips to draw (1000).", flag_values=values)
  flags.DEFINE_string("size", "16x24x40", "prepare without --input: frames x height x width of drawn clips.", flag_values=values)
  flags.DEFINE_float("fps", None, "prepare without --input: frames per second (default: the clip lasts 5.33 s).", flag_values=values)
  flags.DEFINE_integer("seed", 0, "prepare without --input: seed of the scenes.", flag_values=values)
  define_fields(values, PrepareSpec, prefix="prepare: ")
  flags.DEFINE_integer("workers", 0, "prepare, embed: processes; 0: one per core, or alone.", lower_bound=0, flag_values=values)
  flags.DEFINE_list(
    "beam", None, "prepare, embed: options of an Apache Beam pipeline that does it, such as --beam=--runner=...", flag_values=values
  )
  flags.DEFINE_bool("strict", False, "prepare: stop if anything cannot be used.", flag_values=values)
  flags.DEFINE_bool("overwrite", False, "prepare: replace what was prepared there from something else.", flag_values=values)
  flags.DEFINE_string("phase", "", "inspect: name in train.phases (default: the last phase).", flag_values=values)
  flags.DEFINE_enum("split", "train", ["train", "eval", "held_out"], "inspect: what to show.", flag_values=values)
  flags.DEFINE_string(
    "from",
    None,
    "import-t5: T5X folder (local or gs://...) or msgpack file, or Hugging Face safetensors. export-t5: an encoder, or a shipped cascade.",
    flag_values=values,
  )
  flags.DEFINE_string("tokenizer", "", "import-t5: a SentencePiece .model, or bytes; default: what is beside it.", flag_values=values)
  flags.DEFINE_string("model", "", "import-t5: the published size it must have, such as t5_v1_1_xxl; default: any.", flag_values=values)
  flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "import-t5: type in which the network computes.", flag_values=values)
  flags.DEFINE_enum("param_dtype", None, DTYPES, "import-t5: type in which weights are stored (default: dtype).", flag_values=values)
  flags.DEFINE_integer("max_tokens", 256, "import-t5: number of tokens to which captions are truncated.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("batch_size", 64, "embed: captions per call of the encoder.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("shard_size", 1024, "embed: captions per file.", lower_bound=1, flag_values=values)
  define_shares(values)  # of prepare and embed


def main(argv: Sequence[str]) -> None:
  line = parse_flags(argv, define_flags, overrides=True, words=True)
  values, command = line.flags, line.words[0] if line.words else ""
  if command not in COMMANDS or len(line.words) > 1:
    raise UsageError(f"ivid data {' '.join(line.words)!r}: {nearest(command, COMMANDS)}")
  if not values.out:
    raise UsageError(f"--out is missing: expected {OUT.get(command, 'a folder')}")
  COMMANDS[command](values, line.overrides)


def _inspect(values: flags.FlagValues, overrides: Sequence[str]) -> None:
  from ivid.data.pipeline import Split
  from ivid.media.pictures import write_png
  from ivid.runs.inspection import stage_sheet  # starts JAX

  out = pathlib.Path(values.out)
  if out.suffix != ".png":
    raise UserError(f"--out={values.out}: expected a name ending in .png, such as {out.with_suffix('.png')}")
  run = load_run(values.config, overrides)
  write_png(out, stage_sheet(run, phase=values.phase, split=Split(values.split), count=values.num_clips or 4))
  print(f"wrote {out}")


def _prepare(values: flags.FlagValues, _: Sequence[str]) -> None:
  from ivid.runs.preparing import draw, prepare_files  # TFDS takes seconds to import

  share = read_share(values)
  if values.input:
    options: dict[str, Any] = {name: values[name].value for name in ("workers", "beam", "strict", "overwrite")}
    print(prepare_files(fields_of(values, PrepareSpec), values.out, process=share, **options))
  else:
    options = {name: values[name].value for name in ("size", "fps", "num_clips", "num_test", "seed")}
    print(draw(values.out, process=share, **options))


def _source(values: flags.FlagValues, what: str) -> str:
  source = values["from"].value
  if not source:
    raise UsageError(f"--from is missing: expected {what}")
  return source


def _import_t5(values: flags.FlagValues, _: Sequence[str]) -> None:
  source = _source(values, "a T5X checkpoint or Hugging Face safetensors")
  from ivid.text.checkpoints.importing import import_encoder  # starts JAX

  kinds: dict[str, Any] = dict(name=values.name * values["name"].present, dtype=values.dtype, param_dtype=values.param_dtype or "")
  spec = import_encoder(source, values.out, tokenizer=values.tokenizer, size=values.model, max_tokens=values.max_tokens, **kinds)
  print(f"wrote {values.out}: {spec.name}, {spec.layers} layers of {spec.dim}; read it with --config.data.text_encoder={values.out}")


def _export_t5(values: flags.FlagValues, _: Sequence[str]) -> None:
  source = _source(values, "the folder of a text encoder, or a cascade that ships")
  from ivid.text.checkpoints.t5x import write_t5x
  from ivid.text.encoder import open_encoder

  spec, params = open_encoder(text_encoder_folder(source))
  write_t5x(values.out, params)
  print(f"wrote {values.out}: {spec.name} as T5X reads it, float32, the encoder alone")


def _embed(values: flags.FlagValues, overrides: Sequence[str]) -> None:
  run = load_run(values.config, overrides)
  from ivid.runs.text import embed_captions  # starts JAX

  enable_compilation_cache()
  sizes: dict[str, Any] = dict(length=run.cascade.text.max_tokens, batch_size=values.batch_size, shard_size=values.shard_size)
  ways: dict[str, Any] = dict(process=read_share(values), workers=values.workers or 1, beam=values.beam)
  folder = embed_captions(run.data, values.out, **ways, **sizes)
  print(f"wrote {folder}; read it with --config.data.embeddings={folder}")


COMMANDS = {"inspect": _inspect, "prepare": _prepare, "import-t5": _import_t5, "export-t5": _export_t5, "embed": _embed}
