"""Published sizes of T5 v1.1 and ByT5."""

import math

import jax
import pytest

from configs import imagen_video
from ivid.spec.t5 import SPECS, published_name, t5_spec
from ivid.text import t5

# By size: parameters of the encoder with its embedding, as torch's T5EncoderModel of the published configuration counts them; those of the
# whole model, as published (table 1 of 2105.13626 for ByT5; for T5 v1.1 those that name its checkpoints); and layers of the decoder.
PUBLISHED = {
  "t5_v1_1_small": (35_332_800, 77e6, 8),
  "t5_v1_1_base": (109_628_544, 250e6, 12),
  "t5_v1_1_large": (341_231_104, 780e6, 24),
  "t5_v1_1_xl": (1_223_527_424, 3e9, 24),
  "t5_v1_1_xxl": (4_762_310_656, 11e9, 24),
  "byt5_small": (217_657_472, 300e6, 4),
  "byt5_base": (414_703_488, 582e6, 6),
  "byt5_large": (864_204_800, 1.23e9, 12),
  "byt5_xl": (2_614_091_264, 3.74e9, 12),
  "byt5_xxl": (8_990_317_632, 12.9e9, 12),
}


def count(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", SPECS)
def test_parameters_of_all_sizes(name):
  """A decoder layer has the encoder's parameters, a second attention and its norm; logits have a matrix of their own."""
  encoder, total, decoder_layers = PUBLISHED[name]
  spec = t5_spec(name)
  params = t5.abstract_params(spec)
  layer, embedding = params["encoder"]["layers_0"], count(params["token_embedder"])
  decoder = decoder_layers * (count(layer) + count(layer["attention"]) + spec.dim) + count(params["encoder"]["relpos_bias"]) + spec.dim
  assert count(params) == encoder
  assert encoder + decoder + embedding == pytest.approx(total, rel=0.055 if total == 3e9 else 0.02)


def test_the_papers_encoder():
  spec = t5_spec("t5_v1_1_xxl")
  assert (spec.layers, spec.dim, spec.heads, spec.head_dim, spec.mlp_dim) == (24, 4096, 64, 64, 10_240)
  assert imagen_video._text() == {key: getattr(spec, key) for key in imagen_video._text()}


def test_names_and_changes():
  for name, spec in SPECS.items():
    assert published_name(spec) == name and spec.dtype == "bfloat16"
  assert published_name(t5_spec("byt5_small", layers=3)) == "t5"
  with pytest.raises(ValueError, match="did you mean 't5_v1_1_xxl'"):
    t5_spec("t5_v1_1_xx")
  for field in ("dtype", "param_dtype"):
    with pytest.raises(ValueError, match=f"text.{field}='float16': expected 'float32' or 'bfloat16'"):
      t5_spec("byt5_xl", **{field: "float16"})
