"""The pre-training loss: labels, paddings, gradients; and that it learns."""

import jax
import numpy as np
import optax
import pytest

from ivid.spec.cascade import TextSpec
from ivid.text import pretrain, t5
from ivid.text.tokenizer import ByteTokenizer

SMALL = TextSpec(dim=32, layers=1, heads=4, head_dim=8, mlp_dim=32, max_tokens=16)


def _batch(padding=0):
  ids, mask = ByteTokenizer().encode(["red", "blue", "tan", "grey"], 6 + padding)
  labels = np.zeros((4, len(pretrain.CLASSES)), np.int32)
  labels[:, list(pretrain.CLASSES).index("colour_1")] = [1, 2, 3, 4]
  return {"ids": ids, "mask": mask, "labels": labels}


@pytest.fixture(scope="module")
def params():
  return jax.jit(lambda: pretrain.init_pretrain(jax.random.key(0), SMALL))()


def test_loss_starts_near_chance_and_falls(params):
  step = jax.jit(jax.value_and_grad(lambda p, b: pretrain.pretrain_loss(p, b, spec=SMALL), has_aux=True))
  optimizer = optax.adam(1e-2)
  state = optimizer.init(params)
  losses = []
  for _ in range(30):
    (loss, metrics), gradient = step(params, _batch())
    updates, state = optimizer.update(gradient, state)
    params = optax.apply_updates(params, updates)
    losses.append(float(loss))
  assert 0.5 < losses[0] < 6
  assert losses[-1] < 0.1 and metrics["exact"] == 1.0


def test_padding_does_not_enter_the_loss(params):
  batch = _batch(padding=2)
  other = batch | {"ids": np.where(batch["mask"], batch["ids"], 77)}
  longer = batch | {"mask": np.ones_like(batch["mask"])}
  loss = jax.jit(lambda p, b: pretrain.pretrain_loss(p, b, spec=SMALL)[0])
  assert loss(params, batch) == loss(params, other)
  assert abs(loss(params, batch) - loss(params, longer)) > 1e-3


def test_heads_have_the_classes_of_every_attribute(params):
  assert sum(pretrain.CLASSES.values()) == 2 + 2 * (3 + 9 + 33 + 10) + 5
  for name, classes in pretrain.CLASSES.items():
    assert params["heads"][name]["mean"].shape == (SMALL.dim, classes)


def test_heads_start_local_and_directed(params):
  table = np.asarray(params["encoder"]["encoder"]["relpos_bias"]["rel_embedding"])
  bucket = t5.relative_buckets(np.array(-1), buckets=32, max_distance=128)
  assert table[0].argmax() == bucket and np.delete(table[0], bucket).max() < pretrain.LOCAL_BIAS / 2
  behind, ahead = table[-2:, 1:16].min(1), table[-2:, 16:].min(1)
  assert behind[0] > table[-2, 16:].max() + 2 and ahead[1] > table[-1, :16].max() + 2
