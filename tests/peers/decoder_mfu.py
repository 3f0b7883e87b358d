"""How far `ivid compile`'s estimate is from what chips did: plain decoders, of whose training on TPUs the speed is published.

  python tests/peers/decoder_mfu.py 32b_v5p --json=FILE

MaxText (github.com/AI-Hypercomputer/maxtext) publishes model-FLOP utilization of its decoders with their dimensions, batches, sharding and
compiler flags in MaxText/configs/v5p and v5e. These are decoders of the same dimensions, written anew in plain JAX: RMSNorm, rotary
positions, attention by the Pallas kernel, a gated MLP, one scan over the layers, Adam. The kernel's cycles, which the compiler does not
estimate, are counted at half of the chip's peak.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from ivid.measure.topology import parse_slice, set_environment, slice_devices  # noqa: E402
from ivid.media.files import write_whole  # noqa: E402

SEQUENCE, VOCABULARY, HEAD = 2048, 32_000, 128
KERNEL_SHARE = 0.5  # of peak, in attention's kernel


@dataclasses.dataclass(frozen=True)
class Decoder:
  """Dimensions, how it is cut and remembered, and what was published for it on `slice`."""

  slice: str
  width: int
  heads: int
  hidden: int
  layers: int
  rows: int  # sequences per chip
  fsdp: int
  tensor: int
  keeps_products: bool  # of weights for the backward pass; otherwise each layer is computed again from its input
  published: float
  flags: tuple[str, ...] = ()


V5P = (
  "--xla_tpu_megacore_fusion_allow_ags=false",
  "--xla_enable_async_collective_permute=true",
  "--xla_tpu_enable_ag_backward_pipelining=true",
)
DECODERS = {
  "32b_v5p": Decoder("v5p:4x4x4", 8192, 64, 28_672, 32, 7, 16, 4, True, 0.7147, V5P),
  "16b_v5e": Decoder("v5e:16x16", 4096, 64, 28_672, 32, 6, 256, 1, False, 0.6110),
}


def main() -> None:
  """Compiles one of DECODERS and prints the estimate beside what was published."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
  parser.add_argument("name", choices=DECODERS)
  parser.add_argument("--layers", type=int, default=0, help="fewer layers, to try the script")
  parser.add_argument("--json", type=pathlib.Path)
  options = parser.parse_args()
  decoder = DECODERS[options.name]
  decoder = dataclasses.replace(decoder, layers=options.layers or decoder.layers)
  report = estimate(decoder)
  print(json.dumps(report, indent=1))
  if options.json:
    write_whole(options.json, json.dumps(report, indent=1) + "\n")


def estimate(decoder: Decoder) -> dict:
  """What `ivid compile` would say of its training step, attention's kernel added."""
  import os

  os.environ["LIBTPU_INIT_ARGS"] = " ".join(decoder.flags)
  found = parse_slice(decoder.slice)
  set_environment(found)
  import jax
  import numpy as np
  from jax.sharding import Mesh

  from ivid.measure.compiling import cost_of

  devices = np.array(slice_devices(found)).reshape(decoder.fsdp, decoder.tensor)
  mesh = Mesh(devices, ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  step, args = training_step(decoder, mesh)
  with jax.set_mesh(mesh):
    compiled = jax.jit(step, donate_argnums=0).lower(*args).compile()
  tokens = decoder.rows * found.chips * SEQUENCE
  weights = decoder.layers * (4 * decoder.width * decoder.heads * HEAD + 3 * decoder.width * decoder.hidden) + decoder.width * VOCABULARY
  attention = 4 * decoder.layers * decoder.heads * HEAD * SEQUENCE  # per token, all pairs, as MaxText counts them
  flops = 3 * tokens * (2 * weights + attention)
  report = cost_of(compiled, found, flops=flops, chips=found.chips)
  # The kernel does half of the pairs; it runs forward, and backward with five products for two, and forward again where nothing is kept.
  kernel = tokens * attention / 2 * (1 + 2.5 + 1) / (found.chips * found.family.peak * KERNEL_SHARE)
  peak, exposed = found.chips * found.family.peak, report["collective_seconds"]
  hidden = flops / (peak * (report["step_seconds"] + kernel))
  both = flops / (peak * (report["step_seconds"] + kernel + exposed))
  report |= dict(kernel_seconds=kernel, mfu_hidden=hidden, mfu_exposed=both, published=decoder.published)
  return report | dict(hidden_over_published=hidden / decoder.published, exposed_over_published=both / decoder.published)


def training_step(decoder: Decoder, mesh):
  """The step function and its abstract arguments: ((parameters, Adam's state), tokens)."""
  import jax
  import jax.numpy as jnp
  import optax
  from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention
  from jax.sharding import NamedSharding
  from jax.sharding import PartitionSpec as P

  wide = decoder.heads * HEAD
  shapes = dict(
    query=((decoder.width, wide), P("fsdp", "tensor")),
    key=((decoder.width, wide), P("fsdp", "tensor")),
    value=((decoder.width, wide), P("fsdp", "tensor")),
    out=((wide, decoder.width), P("tensor", "fsdp")),
    gate=((decoder.width, decoder.hidden), P("fsdp", "tensor")),
    up=((decoder.width, decoder.hidden), P("fsdp", "tensor")),
    down=((decoder.hidden, decoder.width), P("tensor", "fsdp")),
    norm1=((decoder.width,), P()),
    norm2=((decoder.width,), P()),
  )
  held = lambda shape, spec, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))  # noqa: E731
  layers = {name: held((decoder.layers, *shape), P(None, *spec)) for name, (shape, spec) in shapes.items()}
  table = ((VOCABULARY, decoder.width), P("tensor", "fsdp"))
  params = dict(layers=layers, embedding=held(*table), head=held(*table), norm=held((decoder.width,), P()))
  pin = lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P("fsdp", None, None)))  # noqa: E731

  def norm(x, scale):
    x32 = x.astype(jnp.float32)
    return (x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + 1e-6) * scale).astype(x.dtype)

  def rotate(x):
    half = HEAD // 2
    angles = jnp.arange(SEQUENCE)[:, None] / (10_000 ** (jnp.arange(half) / half))
    cos, sin = jnp.cos(angles)[None, None].astype(x.dtype), jnp.sin(angles)[None, None].astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

  where = P("fsdp", "tensor")
  kernel = functools.partial(flash_attention, causal=True, sm_scale=HEAD**-0.5)
  attend = jax.shard_map(kernel, mesh=mesh, in_specs=(where,) * 3, out_specs=where, check_vma=False)

  def layer(x, weights):
    weights = {name: value if name.startswith("norm") else value.astype(jnp.bfloat16) for name, value in weights.items()}
    h = norm(x, weights["norm1"])
    split = lambda name: (h @ weights[name]).reshape(*x.shape[:2], decoder.heads, HEAD).transpose(0, 2, 1, 3)  # noqa: E731
    heads = attend(rotate(split("query")), rotate(split("key")), split("value"))
    x = pin(x + heads.transpose(0, 2, 1, 3).reshape(*x.shape[:2], wide) @ weights["out"])
    h = norm(x, weights["norm2"])
    return pin(x + (jax.nn.silu(h @ weights["gate"]) * (h @ weights["up"])) @ weights["down"]), None

  policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if decoder.keeps_products else None
  layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)

  def loss(params, tokens):
    x = pin(jnp.take(params["embedding"].astype(jnp.bfloat16), tokens, axis=0))
    x, _ = jax.lax.scan(layer, x, params["layers"])
    logits = (norm(x, params["norm"]) @ params["head"].astype(jnp.bfloat16).T).astype(jnp.float32)
    logits = jax.lax.with_sharding_constraint(logits, NamedSharding(mesh, P("fsdp", None, "tensor")))
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens).mean()

  optimizer = optax.adam(1e-4)

  def step(state, tokens):
    params, moments = state
    _, gradient = jax.value_and_grad(loss)(params, tokens)
    change, moments = optimizer.update(gradient, moments)
    return optax.apply_updates(params, change), moments

  moments = jax.eval_shape(optimizer.init, params)
  like = {leaf.shape: leaf.sharding for leaf in jax.tree.leaves(params)}
  placed = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=like.get(leaf.shape, NamedSharding(mesh, P())))  # noqa: E731
  rows = decoder.rows * mesh.devices.size
  return step, ((params, jax.tree.map(placed, moments)), held((rows, SEQUENCE), P("fsdp", None), jnp.int32))


if __name__ == "__main__":
  main()
