"""The cascade at full size, from shapes alone: nothing of it is computed or held."""

import jax
import pytest

from ivid.config import load_run
from ivid.flops import count_params
from ivid.parallel.mesh import make_mesh
from ivid.spec.stage import Prediction, TimeMixing
from ivid.train.run import make_training

CASCADE = load_run("imagen_video:base").cascade
# Imagen Video, figure 6, in billions.
SIZES = dict(base=5.6, tsr1=1.7, ssr1=1.4, ssr2=1.2, tsr2=0.78, tsr3=0.63, ssr3=0.34)


@pytest.mark.parametrize("name", CASCADE.stage_names)
def test_each_stage_has_the_papers_parameters_and_trains_on_eight_devices(name):
  """The whole training step is traced: loss, gradient, update and moving average, on a mesh of the virtual devices."""
  run = load_run(f"imagen_video:{name}", ["mesh.fsdp=8"])
  training = make_training(run.cascade.stage(name), run.train, make_mesh(run.mesh), max_tokens=run.cascade.text.max_tokens)
  assert abs(count_params(training.state.params) / (1e9 * SIZES[name]) - 1) < 0.03
  with jax.set_mesh(training.mesh):
    state, metrics = jax.eval_shape(training.step.fn, *training.step.args)
  assert jax.tree.structure(state) == jax.tree.structure(training.state) and metrics["loss"].shape == ()


@pytest.mark.parametrize("name", CASCADE.stage_names)
def test_each_stage_is_built_as_the_paper_says(name):
  stage = CASCADE.stage(name)
  levels, text = stage.unet.levels, CASCADE.text
  assert stage.diffusion.prediction is Prediction.V and all(level.channels % 128 == 0 for level in levels)
  assert {level.time for level in levels} == {TimeMixing.ATTENTION if name == "base" else TimeMixing.CONVOLUTION}
  assert (stage.unet.text_dim, text.max_tokens, text.layers, text.heads, text.mlp_dim) == (4096, 256, 24, 64, 10240)
  if name in ("base", "tsr1", "ssr1"):
    assert stage.unet.patch == 1
    sides = {24 * 2 ** (name == "ssr1") // 2**i: level for i, level in enumerate(levels)}
    assert all(sides[side].spatial_attention for side in (12, 6))
    assert sides[6].cross_attention and sides[12].cross_attention == (name == "base")
  if name in ("tsr2", "tsr3", "ssr3"):
    assert stage.unet.fully_convolutional
