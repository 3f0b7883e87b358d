"""Random keys of samples: functions of seed, prompt, sample number and stage name, but not of batch position or device count."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import jax
import numpy as np

IMPL = "threefry2x32"  # fixed, so that a change of JAX's default does not change what a seed draws


@dataclasses.dataclass(frozen=True)
class Sample:
  """One clip to be drawn. `negative` is the text that guidance leads away from, or empty; no key depends on it."""

  prompt: str
  seed: int
  number: int
  negative: str = ""


def key_words(sample: Sample, stage: str) -> np.ndarray:
  """[2] uint32: the first words of SHA-256 of (seed, SHA-256 of the prompt, sample number, stage name)."""
  prompt = hashlib.sha256(sample.prompt.encode("utf-8")).hexdigest()
  digest = hashlib.sha256(f"{sample.seed}/{prompt}/{sample.number}/{stage}".encode()).digest()
  return np.frombuffer(digest[:8], ">u4").astype(np.uint32)


def sample_keys(samples: Sequence[Sample], stage: str) -> jax.Array:
  """[B] keys, one per sample."""
  return jax.random.wrap_key_data(np.stack([key_words(sample, stage) for sample in samples]), impl=IMPL)  # pyright: ignore[reportArgumentType]  JAX takes arrays of NumPy
