"""What ivid and torch both make the golden arrays of: T5s by Hugging Face's names with weights by a rule, and batches of ids with masks.

numpy alone: tests/peers/t5_golden.py imports this where torch is, the tests where it is not. RandomState's streams are frozen by numpy.
"""

import dataclasses
import pathlib
import zlib

import numpy as np

PATH = pathlib.Path(__file__).parent / "golden" / "t5_encoder.npz"
BUCKETS, DISTANCE = 32, 128


@dataclasses.dataclass(frozen=True)
class Case:
  """Sizes of an encoder, the lengths it is run at, and which channels of the result are kept: every `keep`-th."""

  vocab: int
  dim: int
  layers: int
  heads: int
  head_dim: int
  mlp_dim: int
  lengths: tuple[int, ...]
  keep: int = 1


CASES = {
  "tiny": Case(vocab=384, dim=48, layers=2, heads=3, head_dim=16, mlp_dim=80, lengths=(1, 33, 160)),
  # T5 v1.1 small but for the vocabulary.
  "small": Case(vocab=512, dim=512, layers=8, heads=6, head_dim=64, mlp_dim=1024, lengths=(40,), keep=4),
}


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
  """Torch's shapes by Hugging Face's names."""
  joined = case.heads * case.head_dim
  found = {"shared.weight": (case.vocab, case.dim), "encoder.final_layer_norm.weight": (case.dim,)}
  found["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (BUCKETS, case.heads)
  for n in range(case.layers):
    for name in "qkv":
      found[f"encoder.block.{n}.layer.0.SelfAttention.{name}.weight"] = (joined, case.dim)
    found[f"encoder.block.{n}.layer.0.SelfAttention.o.weight"] = (case.dim, joined)
    found[f"encoder.block.{n}.layer.0.layer_norm.weight"] = (case.dim,)
    for name in ("wi_0", "wi_1"):
      found[f"encoder.block.{n}.layer.1.DenseReluDense.{name}.weight"] = (case.mlp_dim, case.dim)
    found[f"encoder.block.{n}.layer.1.DenseReluDense.wo.weight"] = (case.dim, case.mlp_dim)
    found[f"encoder.block.{n}.layer.1.layer_norm.weight"] = (case.dim,)
  return found


def weights(case: Case) -> dict[str, np.ndarray]:
  """Random float32 weights, each from a seed that its name gives, of the sizes that T5's initialisation has."""
  made = {}
  for name, shape in shapes(case).items():
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("norm.weight"):
      draw = 1.0 + 0.1 * draw
    elif ".q." in name:
      draw *= (shape[1] * case.head_dim) ** -0.5
    elif not name.startswith("shared") and "bias" not in name:
      draw *= shape[1] ** -0.5
    made[name] = draw.astype(np.float32)
  return made


def batch(case: Case, length: int) -> tuple[np.ndarray, np.ndarray]:
  """ids [3, length] and masks: all tokens, about two thirds, one."""
  ids = np.random.RandomState(length).randint(1, case.vocab, (3, length))
  counts = (length, -(-2 * length // 3), 1)
  return ids, np.arange(length) < np.array(counts)[:, None]
