"""The published sizes of T5 v1.1 (1910.10683, 2002.05202) and ByT5 (2105.13626) encoders."""

from __future__ import annotations

import dataclasses

from ivid.spec.cascade import TextSpec
from ivid.spec.errors import UserError, nearest

T5_ROWS, BYT5_ROWS = 32_128, 384  # of the embedding; the tokenizers have 32,100 and 259 ids
BYTES = "bytes"
MAX_TOKENS = 256  # Imagen (2205.11487) and Imagen Video truncate to that many

# layers, dim, heads, mlp_dim of the encoder; heads have 64 channels in all of them.
_T5 = {
  "small": (8, 512, 6, 1024),
  "base": (12, 768, 12, 2048),
  "large": (24, 1024, 16, 2816),
  "xl": (24, 2048, 32, 5120),
  "xxl": (24, 4096, 64, 10_240),
}
_BYT5 = {
  "small": (12, 1472, 6, 3584),
  "base": (18, 1536, 12, 3968),
  "large": (36, 1536, 16, 3840),
  "xl": (36, 2560, 32, 6720),
  "xxl": (36, 4672, 64, 12_352),
}


def _named(family: str, size: str, sizes: tuple[int, int, int, int], rows: int, tokenizer: str) -> TextSpec:
  layers, dim, heads, mlp_dim = sizes
  return TextSpec(
    name=f"{family}_{size}",
    tokenizer=tokenizer,
    vocab_size=rows,
    dim=dim,
    layers=layers,
    heads=heads,
    head_dim=64,
    mlp_dim=mlp_dim,
    max_tokens=MAX_TOKENS,
    dtype="bfloat16",
  )


SPECS = {
  spec.name: spec
  for spec in (
    *(_named("t5_v1_1", size, sizes, T5_ROWS, "t5.model") for size, sizes in _T5.items()),
    *(_named("byt5", size, sizes, BYT5_ROWS, BYTES) for size, sizes in _BYT5.items()),
  )
}
_GEOMETRY = ("vocab_size", "dim", "layers", "heads", "head_dim", "mlp_dim", "relative_buckets", "relative_distance")


def t5_spec(name: str, **changes: object) -> TextSpec:
  """The published encoder of that name, such as t5_v1_1_xxl or byt5_small, with fields changed (tokenizer, dtype, max_tokens).

  Raises:
    UserError: unknown name, naming the nearest.
  """
  if name not in SPECS:
    raise UserError(f"unknown T5 {name!r}: {nearest(name, SPECS)}")
  return dataclasses.replace(SPECS[name], **changes)


def published_name(spec: TextSpec) -> str:
  """Name of the published encoder of the same geometry; "t5" if there is none."""
  sizes = [getattr(spec, field) for field in _GEOMETRY]
  return next((name for name, known in SPECS.items() if sizes == [getattr(known, field) for field in _GEOMETRY]), "t5")
