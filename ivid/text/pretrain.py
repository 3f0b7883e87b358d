"""Pre-training of the small encoder, alone: caption -> attributes, then the heads are thrown away.

Not masked tokens: in captions of random scenes a masked colour is unpredictable, so guessing it teaches spelling and grammar only.
What the video stages need is that paraphrases land on the same attributes, that each attribute can be read linearly off the pooled
embedding (it scales and shifts every block), and off the single tokens (cross-attention reads those). So two families of linear heads,
one on the mean over tokens and one on a learned one-query pooling per attribute, must name every attribute of the scene; captions of
still pictures, without motion, are included and carry the class "none".
"""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ivid.spec.cascade import TextSpec
from ivid.text import t5

# Attributes in the columns of `labels` and their numbers of classes. Class 0 of a slot's attribute is "none": no such object, or no
# motion (a still picture); count and background have no such class.
SLOT = {"size": 3, "colour": 9, "shape": 33, "motion": 10}
CLASSES = {"count": 2, **{f"{name}_{slot}": n for slot in (1, 2) for name, n in SLOT.items()}, "background": 5}
LOCAL_OFFSETS = (-1, 1, -2, 2, -3, 3)  # one head each starts by looking at this neighbour
LOCAL_BIAS = 6.0
DIRECTED_BIAS = 4.0  # for the last two heads: the second to last looks at everything behind, the last at everything ahead
MEAN_GAIN = 8.0  # about the square root of a caption's tokens: the mean of so many vectors is small, but the heads' logits should not be


def init_pretrain(key: jax.Array, spec: TextSpec) -> dict[str, Any]:
  """Random `encoder` and `heads`.

  The first heads start with a bias towards one near token each (relative positions below a quarter of the buckets are exact): bytes must
  be joined into words before anything can be learned, and finding that out from uniform attention costs most of a short training. The
  last two start looking back and ahead: which of two objects is the first can be told by direction alone, and Adam would need thousands
  of steps to move a bias that far.
  """
  encoder_key, head_key = jax.random.split(key)
  encoder = t5.init_params(encoder_key, spec)
  table = encoder["encoder"]["relpos_bias"]["rel_embedding"]
  near = [(head, offset) for head, offset in enumerate(LOCAL_OFFSETS[: spec.heads - 2]) if abs(offset) < spec.relative_buckets // 4]
  for head, offset in near:
    bucket = t5.relative_buckets(np.array(offset), buckets=spec.relative_buckets, max_distance=spec.relative_distance)
    table = table.at[head, bucket].add(LOCAL_BIAS)
  half = spec.relative_buckets // 2  # bucket 0 is the token itself, 1 to half - 1 lie behind it, the rest ahead
  table = table.at[-2, 1:half].add(DIRECTED_BIAS).at[-1, half:].add(DIRECTED_BIAS)
  encoder["encoder"]["relpos_bias"]["rel_embedding"] = table
  heads = {}
  for n, (name, classes) in enumerate(CLASSES.items()):
    mean_key, token_key, query_key = jax.random.split(jax.random.fold_in(head_key, n), 3)
    heads[name] = {
      "mean": jax.random.normal(mean_key, (spec.dim, classes)) / spec.dim**0.5,
      "token": jax.random.normal(token_key, (spec.dim, classes)) / spec.dim**0.5,
      "query": jax.random.normal(query_key, (spec.dim,)) / spec.dim**0.5,
    }
  return {"encoder": encoder, "heads": heads}


def attribute_logits(params: Any, ids: jax.Array, mask: jax.Array, spec: TextSpec) -> dict[str, dict[str, jax.Array]]:
  """Per attribute the float32 logits [N, classes] of the head on the mean ("mean") and on the one-query pooling ("token")."""
  h = cast("jax.Array", t5.T5Encoder(spec).apply({"params": params["encoder"]}, ids, mask)).astype(jnp.float32)
  weight = mask.astype(jnp.float32)[..., None]
  mean = MEAN_GAIN * jnp.sum(h * weight, axis=1) / jnp.sum(weight, axis=1)
  logits = {}
  for name, head in params["heads"].items():
    score = jnp.where(mask, h @ head["query"], t5.MASKED_LOGIT)
    pooled = jnp.einsum("nl,nld->nd", jax.nn.softmax(score, axis=-1), h)
    logits[name] = {"mean": mean @ head["mean"], "token": pooled @ head["token"]}
  return logits


def pretrain_loss(params: Any, batch: dict[str, jax.Array], *, spec: TextSpec) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Mean cross-entropy over attributes and both families of heads, and the accuracy of each attribute.

  Args:
    params: as `init_pretrain`.
    batch: `ids` int32 [N, L], `mask` bool [N, L], `labels` int32 [N, len(CLASSES)] in the order of CLASSES.

  Returns:
    loss, and `accuracy_NAME_mean` and `accuracy_NAME_token` per attribute, `accuracy` (mean over attributes of the "mean" heads) and
    `exact` (share of captions with every attribute right by the "mean" heads).
  """
  logits = attribute_logits(params, batch["ids"], batch["mask"], spec)
  losses, metrics, right = [], {}, []
  for n, name in enumerate(CLASSES):
    label = batch["labels"][:, n]
    for family, values in logits[name].items():
      losses.append(jnp.mean(optax.softmax_cross_entropy_with_integer_labels(values, label)))
      hit = jnp.argmax(values, axis=-1) == label
      metrics[f"accuracy_{name}_{family}"] = jnp.mean(hit)
      if family == "mean":
        right.append(hit)
  loss = jnp.mean(jnp.stack(losses))
  metrics |= {"loss": loss, "accuracy": jnp.mean(jnp.stack(right)), "exact": jnp.mean(jnp.all(jnp.stack(right), axis=0))}
  return loss, metrics
