"""Arithmetic counted against what it is by hand."""

import jax
import jax.numpy as jnp

from ivid.flops import count_bytes, count_flops, count_params
from ivid.nets.conv import conv2d


def shape(*sizes, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(sizes, dtype)


def test_matrix_product():
  assert count_flops(lambda a, b: a @ b, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7


def test_batched_product():
  assert count_flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), shape(4, 3, 5), shape(4, 5, 7)) == 2 * 4 * 3 * 5 * 7


def test_convolution_counts_one_platform():
  assert count_flops(conv2d, shape(2, 6, 8, 4), shape(3, 3, 4, 10)) == 2 * 9 * 4 * 10 * 2 * 6 * 8


def test_a_scan_counts_every_turn():
  def turns(a, stack):
    return jax.lax.scan(lambda carry, w: (carry @ w, None), a, stack)[0]

  assert count_flops(turns, shape(3, 5), shape(6, 5, 5)) == 6 * 2 * 3 * 5 * 5


def test_inside_jit_and_checkpoint():
  assert count_flops(jax.jit(jax.checkpoint(lambda a, b: a @ b)), shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7


def test_a_gradient_is_two_more_products():
  def loss(a, b):
    return jnp.sum((a @ b) ** 2)

  assert count_flops(jax.value_and_grad(loss, argnums=(0, 1)), shape(3, 5), shape(5, 7)) == 3 * 2 * 3 * 5 * 7


def test_params_and_bytes():
  tree = {"a": shape(3, 5), "b": [shape(2, dtype=jnp.bfloat16)]}
  assert count_params(tree) == 17
  assert count_bytes(tree) == 64
