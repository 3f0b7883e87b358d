"""Writes tests/text/golden/t5_encoder.npz: what torch's T5EncoderModel makes of the random T5s of tests/text/t5_golden.py, in float32.

  pip install '.[peers]'
  python tests/peers/t5_golden.py

Rows of padding are written as zeros: they hold nothing that is defined.
"""

import pathlib
import sys

import numpy as np
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.text import t5_golden  # noqa: E402  the path comes first


def model(case: t5_golden.Case) -> transformers.T5EncoderModel:
  config = transformers.T5Config(
    vocab_size=case.vocab,
    d_model=case.dim,
    d_kv=case.head_dim,
    d_ff=case.mlp_dim,
    num_layers=case.layers,
    num_heads=case.heads,
    relative_attention_num_buckets=t5_golden.BUCKETS,
    relative_attention_max_distance=t5_golden.DISTANCE,
    feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
  )
  made = transformers.T5EncoderModel(config).eval()
  state = {name: torch.from_numpy(array) for name, array in t5_golden.weights(case).items()}
  missing, unexpected = made.load_state_dict(state, strict=False)
  assert set(missing) <= {"encoder.embed_tokens.weight"} and not unexpected, (missing, unexpected)
  return made


def main() -> None:
  arrays = {}
  for name, case in t5_golden.CASES.items():
    encoder = model(case)
    for length in case.lengths:
      ids, mask = t5_golden.batch(case, length)
      with torch.no_grad():
        out = encoder(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask.astype(np.int64))).last_hidden_state.numpy()
      arrays[f"{name}/{length}"] = np.where(mask[..., None], out, 0.0)[..., :: case.keep]
  t5_golden.PATH.parent.mkdir(exist_ok=True)
  np.savez_compressed(t5_golden.PATH, **arrays)
  print(f"{t5_golden.PATH}: {t5_golden.PATH.stat().st_size} bytes, torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
  main()
