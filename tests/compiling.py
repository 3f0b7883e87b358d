"""Compilation for tests: small programs that run once spend their time in the compiler."""

import jax

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def quick(function, **options):
  """jax.jit without the compiler's expensive passes."""
  return jax.jit(function, compiler_options=QUICK, **options)
