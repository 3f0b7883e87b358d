"""The encoder against torch's T5EncoderModel (transformers), by golden arrays that tests/peers/t5_golden.py writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ivid.text import encoder, t5
from ivid.text.checkpoints import importing
from tests.text import t5_golden

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def golden():
  with np.load(t5_golden.PATH) as file:
    return dict(file)


@pytest.mark.parametrize("name", t5_golden.CASES)
def test_equals_torch(tmp_path, golden, name):
  """From Hugging Face's file through our importer, so that a matrix that is turned or swapped shows here too."""
  case = t5_golden.CASES[name]
  safetensors.numpy.save_file(t5_golden.weights(case), tmp_path / "model.safetensors")
  importing.import_encoder(tmp_path, tmp_path / "ours", tokenizer="bytes", dtype="float32")
  spec, leaves = encoder.open_encoder(tmp_path / "ours")
  assert (spec.dim, spec.layers, spec.heads, spec.mlp_dim) == (case.dim, case.layers, case.heads, case.mlp_dim)
  params = jax.tree.map(np.asarray, leaves)
  net = jax.jit(lambda params, ids, mask: t5.T5Encoder(spec).apply({"params": params}, ids, mask))
  seen = 0
  for length in case.lengths:
    ids, mask = t5_golden.batch(case, length)
    want = golden[f"{name}/{length}"]
    have = np.asarray(net(params, jnp.asarray(ids, jnp.int32), jnp.asarray(mask)))[..., :: case.keep]
    assert have.dtype == np.float32 and have.shape == want.shape
    difference = np.abs(have - want)[mask].max()
    assert difference <= TOLERANCE, (length, difference)
    assert np.abs(want[mask]).mean() > 0.1
    seen += want.size
  assert seen == sum(array.size for key, array in golden.items() if key.startswith(f"{name}/"))
