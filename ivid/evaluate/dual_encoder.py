"""The retrieval network: its folder, and the unit vectors that it gives clips and captions."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ivid.media.files import updated_folder, write_whole
from ivid.media.fit import fit
from ivid.nets.retrieval import DualEncoder
from ivid.programs import Program
from ivid.spec import convert, formats
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.files import read_spec
from ivid.spec.paths import instead_of_file, not_missing
from ivid.spec.retrieval import RetrievalSpec
from ivid.text.embedder import Embedder
from ivid.text.encoder import load_encoder
from ivid.weights.header import HASH, read_header
from ivid.weights.opening import text_encoder_folder
from ivid.weights.tensors import read_weights, write_weights

SPEC_FILE, WEIGHTS_FILE = "spec.json", "weights.safetensors"
STORED = jnp.bfloat16
BATCH = 16  # clips or captions per call of the network; the number is fixed, so that one program of each kind suffices
NOT_HASHED = ("text", "data")  # the path of the text encoder, and text for people


@dataclasses.dataclass(frozen=True)
class Network:
  """A trained network with the text encoder that it belongs to.

  Attributes:
    hash: SHA-256 of the stored spec and weights.
  """

  spec: RetrievalSpec
  params: Any
  hash: str
  encoder: Embedder

  def clips(self, clips: Iterable[np.ndarray]) -> np.ndarray:
    """The unit vectors [N, dim] of clips uint8 [T, H, W, 3], which are fitted to the spec's clip."""
    run = _programs(self.spec)[0]
    return _batched((fitted(clip, self.spec.clip) for clip in clips), lambda some: run(self.params, np.stack(some)), self.spec.dim)

  def captions(self, captions: Sequence[str]) -> np.ndarray:
    """The unit vectors [N, dim] of captions."""
    run = _programs(self.spec)[1]

    def embed(some: list[str]) -> jax.Array:
      return run(self.params, *self.encoder.embed(some, length=self.spec.max_tokens))

    return _batched(captions, embed, self.spec.dim)


def fitted(clip: Any, want: ClipShape) -> np.ndarray:
  """The clip as the network reads it. `clip` is uint8 [T, H, W, 3], or is indexed like it. Its frames are spread evenly over its length,
  and each is cropped around its centre to the aspect and resized."""
  if tuple(clip.shape[1:3]) == (want.height, want.width) and len(clip) == want.frames:
    return np.asarray(clip[list(range(want.frames))])
  chosen = [n * len(clip) // want.frames for n in range(want.frames)]
  kept = dict(zip(sorted(set(chosen)), clip[sorted(set(chosen))], strict=True))
  return np.stack([fit(kept[n], want.height, want.width) for n in chosen])


def changes(shape: Sequence[int], want: ClipShape) -> str:
  """Describes how clips [T, H, W, 3] are fitted; empty if they are not changed."""
  frames, height, width = shape[:3]
  said = [f"{want.frames} of {frames} frames"] * (frames != want.frames)
  said += [f"{width}x{height} as {want.width}x{want.height}"] * ((height, width) != (want.height, want.width))
  return ", ".join(said)


def abstract_params(spec: RetrievalSpec) -> Any:
  """Shapes of the parameters, with their logical axis names."""
  return jax.eval_shape(functools.partial(init_params, spec), jax.random.key(0))


def init_params(spec: RetrievalSpec, key: jax.Array) -> Any:
  """Random parameters, with their logical axis names."""
  clips = jnp.zeros((1, *spec.clip.array))
  tokens, mask = jnp.zeros((1, spec.max_tokens, spec.text_dim)), jnp.ones((1, spec.max_tokens), bool)
  return DualEncoder(spec).init(key, clips, tokens, mask)["params"]


def colours(clips: jax.Array) -> jax.Array:
  """uint8 -> [-1, 1]."""
  return clips.astype(jnp.float32) / 127.5 - 1.0


def save_network(folder: str | os.PathLike[str], spec: RetrievalSpec, params: Any) -> None:
  """Writes spec.json and weights.safetensors as a whole. Raises UserError for values that are NaN or infinite."""
  with updated_folder(folder) as fresh:
    write_weights(fresh / WEIGHTS_FILE, jax.device_get(params), dtype=np.dtype(STORED), digest=_Digest(spec))
    write_whole(fresh / SPEC_FILE, json.dumps(formats.stamped(convert.to_dict(spec)), indent=1) + "\n")


def load_network(folder: str | os.PathLike[str], *, encoder: Embedder | None = None) -> Network:
  """The network that `save_network` wrote.

  Args:
    encoder: the text encoder; None: the one that the spec names.

  Raises:
    UserError: files are missing or damaged, the weights are of another network, or the text encoder is not the one of its training.
  """
  folder = pathlib.Path(folder)
  path = folder / SPEC_FILE
  if instead_of_file(path):
    raise UserError(f"no retrieval network at {folder}: expected {SPEC_FILE} and {WEIGHTS_FILE}{not_missing(path)}")
  spec = read_spec(RetrievalSpec, path, formats.Kind.RETRIEVAL)
  weights = folder / WEIGHTS_FILE
  params = read_weights(weights)
  _check_params(spec, params, weights)
  digest = _Digest(spec)
  for name, array in sorted(traverse_util.flatten_dict(params, sep="/").items()):
    digest.update(name, array.astype(np.dtype(STORED)))
  said = read_header(weights)[1].get(HASH, "")
  if said != digest.hexdigest():
    raise UserError(
      f"{weights} is damaged, or of another network than {path}: its hash is {said[:12] or 'missing'}, expected {digest.hexdigest()[:12]}"
    )
  encoder = encoder or load_encoder(text_encoder_folder(spec.text))
  if encoder.hash != spec.text_encoder:
    raise UserError(
      f"{folder} was trained with the text encoder {spec.text_encoder[:12]}, {spec.text} has {encoder.hash[:12]}: expected the same"
    )
  return Network(spec, params, said, encoder)


class _Digest:
  """SHA-256 over the network's part of the spec, and the names, shapes and bytes of the stored parameters."""

  def __init__(self, spec: RetrievalSpec):
    described = {name: value for name, value in convert.to_dict(spec).items() if name not in NOT_HASHED}
    self._digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())

  def update(self, name: str, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array)  # this gives a scalar an axis
    self._digest.update(f"{name}{array.shape}".encode())
    self._digest.update(array.reshape(-1).view(np.uint8).data)

  def hexdigest(self) -> str:
    return self._digest.hexdigest()


def _check_params(spec: RetrievalSpec, params: Any, path: pathlib.Path) -> None:
  flat: list[dict[str, Any]] = [traverse_util.flatten_dict(tree, sep="/") for tree in (nn.meta.unbox(abstract_params(spec)), params)]
  want, have = ({name: leaf.shape for name, leaf in leaves.items()} for leaves in flat)
  for name in sorted(want.keys() | have.keys()):
    if want.get(name) != have.get(name):
      raise UserError(f"{path} is of another network: parameter {name} has shape {have.get(name)}, expected {want.get(name)}")


@functools.lru_cache(maxsize=4)
def _programs(spec: RetrievalSpec) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
  net = DualEncoder(spec)
  clips = Program("retrieval_clips", lambda params, x: net.apply({"params": params}, colours(x), method=net.clips))
  captions = Program("retrieval_captions", lambda params, *text: net.apply({"params": params}, *text, method=net.captions))
  return clips.jit(), captions.jit()


def _batched(items: Iterable[Any], run: Callable[[list[Any]], jax.Array], dim: int) -> np.ndarray:
  """Applies `run` to batches of BATCH items; the last batch is filled up."""
  rows, some = [], []

  def flush() -> None:
    if some:
      rows.append(np.asarray(run(some + some[-1:] * (BATCH - len(some))))[: len(some)])
      some.clear()

  for item in items:
    some.append(item)
    if len(some) == BATCH:
      flush()
  flush()
  return np.concatenate(rows) if rows else np.zeros((0, dim), np.float32)
