"""Optimizers from Optax as a spec describes them, with clipping."""

from __future__ import annotations

from typing import Any

import jax
import optax
from flax import linen as nn
from flax.core import meta
from optax import contrib

from ivid.spec.run import OptimizerKind, OptimizerSpec

# Update size of a Muon matrix relative to Adam's, so that one learning rate serves both (arXiv 2502.16982).
MUON_RMS = 0.2
# With almost-orthogonal-layer scaling four Newton-Schulz steps reach what five do without (arXiv 2512.04632).
MUON_STEPS = 4


def make_optimizer(spec: OptimizerSpec, *, rate: optax.Schedule, boxed: Any) -> optax.GradientTransformation:
  """The optimizer of a run.

  Args:
    rate: learning rate by update (ivid.train.phases.learning_rate).
    boxed: abstract parameters with their logical axis names; Muon reads which axes are stacked layers.
  """
  return optax.chain(optax.clip_by_global_norm(spec.clip_norm), _update_rule(spec, rate, boxed))


def _update_rule(spec: OptimizerSpec, rate: optax.Schedule, boxed: Any) -> optax.GradientTransformation:
  match spec.kind:
    case OptimizerKind.ADAM:
      return optax.adamw(rate, b1=spec.b1, b2=spec.b2, weight_decay=spec.weight_decay)
    case OptimizerKind.ADAFACTOR:
      # If Optax's optimizers got the learning rate, they would not scale the weight decay by it; so the rate comes last.
      rule = optax.adafactor(None, multiply_by_parameter_scale=False, weight_decay_rate=spec.weight_decay or None)
      return optax.chain(rule, optax.scale_by_schedule(rate))
    case OptimizerKind.MUON:
      return contrib.muon(
        rate,
        ns_steps=MUON_STEPS,
        preconditioning="aol",
        weight_decay=spec.weight_decay,
        adam_b1=spec.b1,
        adam_b2=spec.b2,
        adam_weight_decay=spec.weight_decay,
        muon_weight_dimension_numbers=_matrix_axes(boxed),
        consistent_rms=MUON_RMS,
      )


def _matrix_axes(boxed: Any) -> Any:
  """The axes that make each kernel a matrix: all but the last are inputs, stacked layers are a batch. None for other parameters."""

  def one(leaf: Any) -> contrib.MuonDimensionNumbers | None:
    named = isinstance(leaf, nn.LogicallyPartitioned)
    shape = leaf.value.shape if isinstance(leaf, meta.Partitioned) else leaf.shape
    stacked = 1 if named and leaf.names and leaf.names[0] == "layers" else 0
    if len(shape) - stacked < 2:
      return None
    return contrib.MuonDimensionNumbers(reduction_axis=tuple(range(stacked, len(shape) - 1)), output_axis=(len(shape) - 1,))

  return jax.tree.map(one, boxed, is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata))
