"""Two small encoders with one space, for clips and for captions, trained as Radford et al. (2103.00020, section 2.3) train theirs.

The encoder of captions looks at the tokens of a frozen text encoder, that of clips at a few coarse positions of the whole clip and at where
things are in each frame.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ivid.nets.layers import Conv, Dense, FrameNorm, TimeConv, VectorNorm, space_to_depth
from ivid.spec.retrieval import RetrievalSpec
from ivid.spec.stage import Norm

MLP_FACTOR = 2  # of the features inside the feed-forward layer
FIRST_SCALE = 1 / 0.07  # of the cosines before softmax, as Radford et al. begin
LARGEST_SCALE = 100.0  # where they stop it
MINUS_INFINITY = -1e9
MOMENTS = 4.0  # times second moments and shares of the frame, so that they are as large as places
NORM = 1e-6  # added to squared norms


class DualEncoder(nn.Module):
  """Both encoders, and the temperature of their contrastive loss."""

  spec: RetrievalSpec

  def setup(self):
    self.video = VideoEncoder(self.spec)
    self.text = TextHead(self.spec)
    self.log_scale = self.param("log_scale", nn.initializers.constant(jnp.log(FIRST_SCALE)), ())

  def __call__(self, clips: jax.Array, tokens: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Unit vectors of clips [B, dim] and of captions [N, dim], and the scale of their cosines. Arguments as of both encoders."""
    return self.clips(clips), self.captions(tokens, mask), jnp.minimum(jnp.exp(self.log_scale), LARGEST_SCALE)

  def clips(self, clips: jax.Array) -> jax.Array:
    """clips [B, T, H, W, 3] in [-1, 1], of the spec's size -> unit vectors [B, dim]."""
    return _unit(self.video(clips))

  def captions(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """tokens [N, L, text_dim], mask [N, L] bool, at least one token valid -> unit vectors [N, dim]."""
    return _unit(self.text(tokens, mask))


class VideoEncoder(nn.Module):
  """Patches of several frames, convolutions in space and time while height and width are halved, attention over what is left."""

  spec: RetrievalSpec

  @nn.compact
  def __call__(self, clips: jax.Array) -> jax.Array:
    spec = self.spec
    assert clips.shape[1:] == spec.clip.array, (clips.shape, spec.clip)
    B, T, H, W, C = clips.shape
    frames = T // spec.frames_per_patch
    h = clips.reshape(B, frames, spec.frames_per_patch, H, W, C).transpose(0, 1, 3, 4, 2, 5).reshape(B, frames, H, W, -1)
    h = Conv(spec.channels[0], name="patches")(space_to_depth(h, spec.patch))
    for n, channels in enumerate(spec.channels[1:], start=1):
      h = Conv(channels, stride=2, name=f"down_{n}")(_active(f"norm_{n}", h))
      if n + 1 < len(spec.channels):
        h = h + TimeConv(name=f"time_{n}")(_active(f"time_norm_{n}", h))
        h = h + Conv(channels, zero=True, name=f"conv_{n}")(_active(f"conv_norm_{n}", h))
    places = self.param("places", nn.initializers.normal(0.1), (1, *h.shape[1:]))
    h = (h + places).reshape(B, -1, h.shape[-1])
    h = h + SelfAttention(spec.head_dim, name="attention")(VectorNorm(name="attention_norm")(h))
    inner = nn.silu(Dense(MLP_FACTOR * h.shape[-1], name="widen")(VectorNorm(name="mlp_norm")(h)))
    h = h + Dense(h.shape[-1], zero=True, name="narrow")(inner)
    seen = Looks(spec, name="looks")(VectorNorm(name="last_norm")(h), None)
    ways = nn.silu(Dense(spec.hidden, name="ways")(Tracks(spec, name="tracks")(clips)))
    return seen + Dense(spec.dim, bias=False, name="ways_out")(ways)


class Tracks(nn.Module):
  """Where things are in each frame: clips [B, T, H, W, 3] -> [B, T maps 6].

  A map is a softmax over the positions of a frame (Finn et al., 1509.06113, section V); of each there are the mean place, the three second
  moments about it, and how much of the frame answers at all.
  """

  spec: RetrievalSpec

  @nn.compact
  def __call__(self, clips: jax.Array) -> jax.Array:
    h = Conv(self.spec.maps, name="colours")(space_to_depth(clips, self.spec.patch))
    h = Dense(self.spec.maps, name="maps")(nn.silu(h))
    B, T, H, W, K = h.shape
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, H), jnp.linspace(-W / H, W / H, W), indexing="ij")
    powers = jnp.stack([x, y, x * x, y * y, x * y], axis=-1).reshape(H * W, -1)
    h = h.reshape(B, T, H * W, K)
    x, y, xx, yy, xy = jnp.moveaxis(jnp.einsum("btnk,nc->btkc", jax.nn.softmax(h, axis=2), powers), -1, 0)
    spread = (MOMENTS * moment for moment in (xx - x * x, yy - y * y, xy - x * y))
    return jnp.stack([x, y, *spread, MOMENTS * jax.nn.sigmoid(h).mean(2)], axis=-1).reshape(B, -1)


class TextHead(nn.Module):
  """What a few learned places look at among the tokens of a caption."""

  spec: RetrievalSpec

  @nn.compact
  def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    return Looks(self.spec, name="looks")(VectorNorm(name="norm")(tokens), mask)


class Looks(nn.Module):
  """x [B, N, C] -> [B, dim]: weighted means over the valid positions and their plain mean, side by side through two layers."""

  spec: RetrievalSpec

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    spec = self.spec
    scores = Dense(spec.queries, name="scores")(nn.silu(Dense(spec.hidden // 2, name="keys")(x)))
    valid = jnp.ones(x.shape[:2], bool) if mask is None else mask
    weights = jax.nn.softmax(jnp.where(valid[..., None], scores, MINUS_INFINITY), axis=1)
    plain = valid[..., None] / valid.sum(1)[:, None, None]
    seen = jnp.einsum("bnq,bnc->bqc", jnp.concatenate([weights, plain], axis=-1), x).reshape(len(x), -1)
    return Dense(spec.dim, bias=False, name="out")(nn.silu(Dense(spec.hidden, name="hidden")(seen)))


class SelfAttention(nn.Module):
  """Attention of every position to all, x [B, N, C] -> the same shape, zero at the beginning."""

  head_dim: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    B, N, C = x.shape
    query, key, value = jnp.split(Dense(3 * C, bias=False, name="qkv")(x).reshape(B, N, -1, self.head_dim), 3, axis=2)
    y = jax.nn.dot_product_attention(query, key, value)
    return Dense(C, zero=True, name="out")(y.reshape(B, N, C))


def contrastive_loss(clips: jax.Array, captions: jax.Array, scale: jax.Array, same: jax.Array) -> jax.Array:
  """Mean of the cross-entropies of each clip's caption among all and of each caption's clip among all, per pair: [B].

  Args:
    clips, captions: unit vectors [B, dim] of pairs.
    scale: of the cosines, a scalar.
    same: [B, B] bool, whether two pairs have one caption: neither is a wrong answer for the other.
  """
  logits = scale * clips @ captions.T
  logits = jnp.where(same & ~jnp.eye(len(clips), dtype=bool), MINUS_INFINITY, logits)
  right = jnp.diagonal(logits)
  return (jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)) / 2 - right


def _active(name: str, h: jax.Array) -> jax.Array:
  return nn.silu(FrameNorm(Norm.RMS, name=name)(h))


def _unit(x: jax.Array) -> jax.Array:
  return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + NORM)
