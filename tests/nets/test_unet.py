import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.nets import axes
from ivid.nets.blocks import Block
from ivid.nets.condition import Conditioner
from ivid.nets.unet import VideoUNet, frame_halo, pixel_halo
from ivid.spec.stage import LevelSpec, Norm, TimeMixing, UNetSpec

# Programs here run once: an optimised compile would cost more than it saves.
SMALL = UNetSpec(
  levels=(
    LevelSpec(8, time=TimeMixing.CONVOLUTION),
    LevelSpec(8, time=TimeMixing.ATTENTION, spatial_attention=True, cross_attention=True),
  ),
  patch=2,
  io_kernel=1,
  embed_dim=8,
  head_dim=4,
  norm_groups=2,
  text_dim=6,
)
LOCAL = UNetSpec(
  levels=(LevelSpec(4, residuals=2, time=TimeMixing.CONVOLUTION), LevelSpec(4)), patch=2, embed_dim=8, head_dim=4, norm=Norm.RMS, text_dim=6
)


CONVOLUTIONS, MIXING = ("norm1", "conv1", "film", "norm2", "conv2"), ("time", "space", "text")


class OnlyBlocks(VideoUNet):
  @nn.compact
  def __call__(self, h, context):
    h, skips = self._down(h, context)
    return self._up(h, skips, context)


def _normal(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _inputs(spec, *, B=2, T=3, H=8, W=8, K=1, lowres=False, w=False):
  inputs = dict(
    z=_normal(0, B, T, H, W, 3),
    logsnr=jnp.linspace(-5.0, 5.0, B),
    text=_normal(1, B, K, 4, spec.text_dim),
    text_mask=jnp.broadcast_to(jnp.arange(4) < 3, (B, K, 4)),
    is_video=jnp.ones(B, bool),
    fps=jnp.full(B, 6.0),
  )
  if lowres:
    inputs |= dict(lowres=_normal(2, B, T, H, W, 4), aug_logsnr=jnp.ones(B))
  return inputs | (dict(w=jnp.full(B, 3.0)) if w else {})


def _boxed(net, inputs):
  return jax.eval_shape(lambda: net.init(jax.random.key(0), **inputs))["params"]


def _params(net, inputs):
  """Random everywhere, also where the initialisation is zero, so that every branch has an effect."""
  leaves, tree = jax.tree.flatten(nn.unbox(_boxed(net, inputs)))
  scale = [0.5 / np.sqrt(max(1, np.prod(leaf.shape[1:-1]))) for leaf in leaves]
  return jax.tree.unflatten(tree, [_normal(i, *leaf.shape) * s for i, (leaf, s) in enumerate(zip(leaves, scale, strict=True))])


def _apply(net):
  return jax.jit(lambda params, inputs: net.apply({"params": params}, **inputs))


@pytest.mark.parametrize(
  "lowres,w,K,norm,dtype",
  [
    (False, False, 1, Norm.GROUP, "float32"),
    (False, True, 3, Norm.RMS, "bfloat16"),
    (True, False, 3, Norm.GROUP, "bfloat16"),
    (True, True, 1, Norm.RMS, "float32"),
  ],
)
def test_output_shape_and_dtype(lowres, w, K, norm, dtype):
  net = VideoUNet(dataclasses.replace(SMALL, norm=norm, dtype=dtype), out_channels=3 if lowres else 5)
  inputs = _inputs(SMALL, H=10, W=6, K=K, lowres=lowres, w=w)
  y, variables = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), **inputs))
  assert (y.shape, y.dtype) == ((2, 3, 10, 6, net.out_channels), jnp.float32)
  assert ("aug_logsnr" in variables["params"]["condition"]) == lowres
  assert "w" in variables["params"]["condition"]


def test_the_tree_has_param_dtype_and_does_not_depend_on_w_captions_or_size():
  net = VideoUNet(dataclasses.replace(SMALL, param_dtype="bfloat16"))
  trees = [nn.unbox(_boxed(net, _inputs(SMALL, **kinds))) for kinds in (dict(), dict(w=True, K=3, T=3, H=16))]
  assert all(jax.tree.leaves(jax.tree.map(lambda *a: len(set(map(str, a))) == 1, *trees)))
  assert {leaf.dtype for leaf in jax.tree.leaves(trees[0])} == {jnp.dtype(jnp.bfloat16)}


def test_every_parameter_names_every_axis():
  boxed = _boxed(VideoUNet(dataclasses.replace(SMALL, text_width=4)), _inputs(SMALL, lowres=True))
  flat = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
  for path, leaf in flat:
    name = jax.tree_util.keystr(path)
    assert isinstance(leaf, nn.LogicallyPartitioned), name
    assert len(leaf.names) == leaf.value.ndim and set(leaf.names) <= set(axes.PARAMETER_AXES), (name, leaf.names)
    assert (leaf.names[0] == axes.LAYERS) == ("'down" in name or "'up" in name), (name, leaf.names)


def test_output_is_zero_at_initialisation():
  spec = dataclasses.replace(LOCAL, levels=LOCAL.levels[:1])
  inputs = _inputs(spec, B=1, T=2, H=4, W=4)
  y, variables = jax.jit(lambda: VideoUNet(spec).init_with_output(jax.random.key(0), **inputs))()
  assert not np.any(y)
  assert np.any(nn.unbox(variables)["params"]["conv_in"]["kernel"])


def test_guidance_weight_has_no_effect_at_initialisation_and_one_after():
  inputs = {k: v for k, v in _inputs(SMALL).items() if k != "z"} | dict(time=jnp.zeros((2, 3)))
  module = Conditioner(SMALL)
  params = nn.unbox(jax.jit(lambda: module.init(jax.random.key(0), **inputs))())
  embed = jax.jit(lambda params: [module.apply(params, **inputs, w=w).emb for w in (None, jnp.full(2, 1.0), jnp.full(2, 15.0))])
  plain, guided, more = embed(params)
  np.testing.assert_array_equal(guided, plain)
  np.testing.assert_array_equal(more, plain)
  plain, guided, more = embed(jax.tree.map(lambda p: p + 0.1, params))
  assert np.abs(plain - guided).max() > 1e-3 and np.abs(more - guided).max() > 1e-3


def test_pictures_in_one_example_equal_pictures_one_by_one_and_missing_text_has_no_content():
  net = VideoUNet(SMALL)
  inputs = _inputs(SMALL, K=3)
  mask = inputs["text_mask"].at[1, 2].set(False)  # one picture without a caption
  inputs |= dict(is_video=jnp.array([True, False]), text_mask=mask)
  params = _params(net, inputs)
  apply = _apply(net)
  y = apply(params, inputs)
  frames = {k: v[1][:, None] if k in ("z", "text", "text_mask") else jnp.repeat(v[1:], 3, 0) for k, v in inputs.items()}
  np.testing.assert_allclose(apply(params, frames)[:, 0], y[1], atol=1e-5)
  # The video's frames do meet.
  moved = inputs | dict(z=inputs["z"].at[:, 0].add(1.0))
  change = np.abs(apply(params, moved) - y).max((2, 3, 4))
  assert change[0].min() > 1e-4 and change[1, 0] > 1e-4
  assert change[1, 1:].max() == 0
  # Hidden tokens are not read, valid ones are.
  other = apply(params, inputs | dict(text=jnp.where(mask[..., None], inputs["text"], 9.0)))
  np.testing.assert_array_equal(other, y)
  other = apply(params, inputs | dict(text=inputs["text"].at[1, 2].add(1.0).at[1, 1].multiply(-1.0)))
  changed = np.abs(other - y).max((2, 3, 4))
  assert changed[1, 1] > 1e-4 and changed[1, [0, 2]].max() == 0


def test_a_clips_caption_given_once_is_as_one_given_for_every_frame():
  net = VideoUNet(SMALL)
  inputs = _inputs(SMALL, B=4, K=3)
  is_video = jnp.array([False, True, False, True])
  text = jnp.where(is_video[:, None, None, None], inputs["text"][:, :1], inputs["text"])
  inputs |= dict(is_video=is_video, text=text)
  grouped = {k: jnp.concatenate([inputs[k][0::2], inputs[k][1::2, :1]], axis=1) for k in ("text", "text_mask")}
  params = _params(net, inputs)
  want = _apply(net)(params, inputs)
  np.testing.assert_allclose(_apply(net)(params, inputs | grouped), want, atol=1e-5)
  assert np.abs(_apply(net)(params, inputs | dict(text=text[::-1])) - want).max() > 1e-3
  with pytest.raises(ValueError, match="text of 2 x 5 captions for 4 rows of 3 frames"):
    _apply(net)(params, inputs | {k: jnp.concatenate([a, a[:, :1]], axis=1) for k, a in grouped.items()})


def test_tokens_are_brought_to_a_width_once_for_all_blocks():
  """With the identity as projection a network is what it is without one; with a narrower one, blocks read that width."""
  wide, inputs = dataclasses.replace(SMALL, text_width=SMALL.text_dim), _inputs(SMALL)
  params = _params(VideoUNet(SMALL), inputs)
  same = {
    **params,
    "condition": {**params["condition"], "text_proj": {"kernel": jnp.eye(SMALL.text_dim), "bias": jnp.zeros(SMALL.text_dim)}},
  }
  want = _apply(VideoUNet(SMALL))(params, inputs)
  np.testing.assert_allclose(_apply(VideoUNet(wide))(same, inputs), want, atol=1e-5)
  narrow = nn.unbox(_boxed(VideoUNet(dataclasses.replace(SMALL, text_width=2)), inputs))
  assert narrow["condition"]["text_proj"]["kernel"].shape == (SMALL.text_dim, 2)
  assert narrow["down1"]["text"]["key"]["dense"]["kernel"].shape[-2:] == (2, 8)


def test_a_block_mixes_once_after_all_its_residual_blocks():
  level = dataclasses.replace(SMALL.levels[1], residuals=3)
  boxed = _boxed(VideoUNet(dataclasses.replace(SMALL, levels=(SMALL.levels[0], level))), _inputs(SMALL))
  block = nn.unbox(boxed)["down1"]
  convolutions, mixing = ({kind: sum(name.startswith(kind) for name in block) for kind in kinds} for kinds in (CONVOLUTIONS, MIXING))
  assert set(convolutions.values()) == {3} and set(mixing.values()) == {2}  # each of the latter has a norm before it
  assert "shortcut" not in block and "shortcut" in nn.unbox(boxed)["up1"]  # the first of them takes in the skip
  with pytest.raises(ValueError, match=r"unet.levels\[1\].residuals=0: expected 1 or more"):
    dataclasses.replace(SMALL, levels=(SMALL.levels[0], dataclasses.replace(level, residuals=0)))


def test_scan_remat_and_unroll_equal_blocks_one_by_one():
  level = LevelSpec(4, blocks=2)
  spec = dataclasses.replace(LOCAL, levels=(level,), io_kernel=1)
  inputs = _inputs(spec, T=1, H=4, W=4)
  params = _params(VideoUNet(spec), inputs)

  def loss(params, **run):
    net = VideoUNet(dataclasses.replace(spec, levels=(dataclasses.replace(level, **run),)))
    return jnp.square(net.apply({"params": params}, **inputs)).mean()

  def by_hand(params, h):
    """Down then up; the last skip is the first to be used."""
    context = Conditioner(spec).apply(
      {"params": params["condition"]}, time=jnp.zeros((2, 1)), **{k: v for k, v in inputs.items() if k != "z"}
    )
    scanned, skips = OnlyBlocks(spec).apply({"params": params}, h, context), []
    for i in range(2):
      h, skip = Block(spec, level).apply({"params": _layer(params["down0"], i)}, h, None, context)
      skips.append(skip)
    for i in (1, 0):
      h, _ = Block(spec, level, True).apply({"params": _layer(params["up0"], i)}, h, skips[i], context)
    return scanned, h

  def everything(params):
    runs = ({}, dict(remat=True), dict(remat=True, saved=("conv",)), dict(unroll=2))
    first, *others = (jax.value_and_grad(loss)(params, **run) for run in runs)
    return [*((first, other) for other in others), by_hand(params, _normal(3, 2, 1, 4, 4, 4))]

  for first, second in jax.jit(everything)(params):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), first, second)


def _layer(stacked, i):
  return jax.tree.map(lambda a: a[i], stacked)


@pytest.fixture(scope="module")
def local():
  """A fully convolutional network on 4 clips of 12 x 4 x 96."""
  inputs = _inputs(LOCAL, B=4, T=12, H=4, W=96)
  params, apply = _params(VideoUNet(LOCAL), inputs), _apply(VideoUNet(LOCAL))
  return inputs, lambda z: np.asarray(apply(params, inputs | dict(z=z)))


def test_an_output_depends_on_inputs_up_to_the_halo_and_no_further(local):
  inputs, apply = local
  places = 44 + np.arange(4)  # one full stride of them
  reached = np.isnan(apply(inputs["z"].at[np.arange(4), 5, :, places].set(np.nan))).any((2, 4))  # [B, T, W]
  columns = [np.abs(np.flatnonzero(r.any(0)) - place).max() for r, place in zip(reached, places, strict=True)]
  times = [np.abs(np.flatnonzero(r.any(1)) - 5).max() for r in reached]
  assert (max(columns), max(times)) == (pixel_halo(LOCAL), frame_halo(LOCAL))


def test_tiles_agree_where_they_overlap_by_more_than_the_halo(local):
  _, apply = local
  clip = _normal(5, 12, 4, 96 + LOCAL.stride, 3)
  first, second = (apply(jnp.stack([clip[..., start : start + 96, :]] * 4))[0] for start in (0, LOCAL.stride))
  halo = pixel_halo(LOCAL) + LOCAL.stride
  np.testing.assert_allclose(second[..., halo:-halo, :], first[..., halo + LOCAL.stride : LOCAL.stride - halo, :], atol=1e-5)
  assert np.abs(second[..., :8, :] - first[..., LOCAL.stride : LOCAL.stride + 8, :]).max() > 1e-3  # and not beside the border


def test_halo_of_a_network_that_attends_is_refused():
  with pytest.raises(ValueError, match="attends over space or normalises whole frames"):
    pixel_halo(SMALL)
  with pytest.raises(ValueError, match="attends over time"):
    frame_halo(SMALL)


def test_halo_of_one_level_by_hand():
  spec = UNetSpec(levels=(LevelSpec(4, blocks=1, time=TimeMixing.CONVOLUTION),), patch=4, norm=Norm.RMS, head_dim=4)
  # Six convolutions in cells of 4 pixels, plus the rest of the first cell.
  assert (pixel_halo(spec), frame_halo(spec)) == (6 * 4 + 3, 2)


def test_sizes_that_do_not_divide_are_padded_with_zeros():
  spec = dataclasses.replace(LOCAL, levels=(LevelSpec(4),), patch=4, io_kernel=1)
  inputs = _inputs(spec, B=1, T=1, H=4, W=6)
  params, apply = _params(VideoUNet(spec), inputs), _apply(VideoUNet(spec))
  padded = inputs | dict(z=jnp.pad(inputs["z"], ((0, 0), (0, 0), (0, 0), (0, 2), (0, 0))))
  np.testing.assert_allclose(apply(params, inputs), apply(params, padded)[..., :6, :], atol=1e-6)


def test_input_path_carries_levels_that_norms_drop():
  """Adding a constant to the conditioning clip reaches the output by the gate, channel by channel."""
  net = VideoUNet(SMALL)
  inputs = _inputs(SMALL, lowres=True)
  params = _params(net, inputs)
  gate = jax.tree.map(jnp.zeros_like, params["input_path"])
  closed = dict(params, input_path=gate)
  opened = dict(params, input_path=dict(gate, bias=jnp.asarray([0.0, 0, 0, 0.5, 1.0, 2.0])))
  difference = net.apply({"params": opened}, **inputs) - net.apply({"params": closed}, **inputs)
  np.testing.assert_allclose(difference, inputs["lowres"][..., :3] * jnp.asarray([0.5, 1.0, 2.0]), atol=1e-5)


def test_about_the_clip_is_the_gaussian_posterior():
  """With the network's output at zero: x normal about the clip, z_t = alpha x + sigma eps, and the clip itself noised."""
  spec = dataclasses.replace(SMALL, residual_std=0.3, scale_input=True)
  inputs = _inputs(spec, lowres=True) | dict(logsnr=jnp.asarray([-20.0, 20.0]), aug_logsnr=jnp.full(2, 1.0))
  net = VideoUNet(spec)
  params = _params(net, inputs)
  params = dict(params, conv_out=jax.tree.map(jnp.zeros_like, params["conv_out"]))
  guess = np.asarray(_apply(net)(params, inputs))
  snr = np.exp(1.0)
  clip = np.asarray(inputs["lowres"][..., :3]) / np.sqrt(snr / (1 + snr))
  np.testing.assert_allclose(guess[0], clip[0], atol=1e-3)  # all noise: the clip
  np.testing.assert_allclose(guess[1], inputs["z"][1], atol=1e-3)  # no noise: z_t
  guess = np.asarray(_apply(net)(params, inputs | dict(logsnr=jnp.full(2, 0.7))))
  alpha2, prior = 1 / (1 + np.exp(-0.7)), 0.3**2 + 1 / snr  # by precisions: alpha^2 / sigma^2 from z_t, 1 / prior from the clip
  precisions = alpha2 / (1 - alpha2), 1 / prior
  want = (precisions[0] * np.asarray(inputs["z"]) / np.sqrt(alpha2) + precisions[1] * clip) / sum(precisions)
  np.testing.assert_allclose(guess, want, atol=1e-5)
