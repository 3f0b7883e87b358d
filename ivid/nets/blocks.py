"""The block of the Video U-Net: convolutional residual blocks, then mixing over time, space and text (section 2.3)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ivid.nets.attention import JointAttention, SpatialAttention, TemporalAttention, TextAttention
from ivid.nets.condition import Context
from ivid.nets.layers import Conv, Dense, FrameNorm, TimeConv, pin
from ivid.spec.stage import LevelSpec, TimeMixing, UNetSpec

SKIP_SCALE = 2**-0.5  # of skip connections (Imagen, appendix B)


class Block(nn.Module):
  """One block of a level, as a step of a scan. The carry is [B, T, H, W, C]; on the way up a skip of the same shape joins it."""

  spec: UNetSpec
  level: LevelSpec
  up: bool = False

  def _norm(self, name: str) -> FrameNorm:
    return FrameNorm(self.spec.norm, self.spec.norm_groups, name=name, **self._kinds())

  def _kinds(self) -> dict[str, Any]:
    return dict(dtype=jnp.dtype(self.spec.dtype), param_dtype=jnp.dtype(self.spec.param_dtype))

  @nn.compact
  def __call__(self, h: jax.Array, skip: jax.Array | None, context: Context) -> tuple[jax.Array, jax.Array | None]:
    """Returns the new carry; on the way down it is returned a second time, as the skip."""
    shape = h.shape
    if self.up:
      h = jnp.concatenate([h, skip * jnp.asarray(SKIP_SCALE, skip.dtype)], axis=-1)
    for i in range(self.level.residuals):
      h = self._residual(h, context, "" if i == 0 else f"_{i + 1}")
    h = self._mix_time(h, context)
    if self.level.spatial_attention:
      h = h + SpatialAttention(self.spec.head_dim, name="space", **self._kinds())(self._norm("space_norm")(h))
    if self.level.cross_attention:
      h = h + TextAttention(self.spec.head_dim, name="text", **self._kinds())(self._norm("text_norm")(h), *context.text)
    assert h.shape == shape, (h.shape, shape)
    h = pin(h)
    return h, None if self.up else h

  def _residual(self, x: jax.Array, context: Context, which: str) -> jax.Array:
    """norm, SiLU, conv, norm with scale and shift, SiLU, conv; a 1x1 shortcut if the channels differ. `which` ends layer names."""
    C = self.level.channels
    film = Dense(2 * C, name=f"film{which}", **self._kinds())(context.emb)
    scale, shift = jnp.split(film, 2, axis=-1)
    h = checkpoint_name(Conv(C, name=f"conv1{which}", **self._kinds())(nn.silu(self._norm(f"norm1{which}")(x))), "conv")
    h = nn.silu(self._norm(f"norm2{which}")(h, scale=scale, shift=shift))
    h = checkpoint_name(Conv(C, zero=True, name=f"conv2{which}", **self._kinds())(h), "conv")
    if x.shape[-1] != C:
      x = checkpoint_name(Conv(C, kernel=1, name="shortcut", **self._kinds())(x), "conv")
    return x + h

  def _mix_time(self, h: jax.Array, context: Context) -> jax.Array:
    """Mixes over time in videos only: independent pictures packed as the frames of one example never mix."""
    if self.level.time is TimeMixing.JOINT:
      return h + JointAttention(self.spec.head_dim, name="time", **self._kinds())(
        self._norm("time_norm")(h), context.time, context.is_video
      )
    if self.level.time is TimeMixing.NONE or context.is_video is None:
      return h
    normed = self._norm("time_norm")(h)
    if self.level.time is TimeMixing.CONVOLUTION:
      mixed = checkpoint_name(TimeConv(name="time", **self._kinds())(normed), "conv")
    else:
      mixed = TemporalAttention(self.spec.head_dim, name="time", **self._kinds())(normed, context.time)
    return h + jnp.where(context.is_video[:, None, None, None, None], mixed, 0)
