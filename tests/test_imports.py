"""The direction of imports, read with ast; and that importing ivid touches no device."""

from __future__ import annotations

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "ivid"

# What each part may import besides itself. A part is a folder of ivid/ or a module of it; those left out are an error.
NUMERIC = {"nets", "diffusion", "video", "text", "spec", "weights", "programs"}
STEPPING = NUMERIC | {"stage", "steps", "parallel", "data", "media", "flops"}
ALLOWED = {
  "spec": set(),
  "weights": set(),
  "flops": set(),
  "media": set(),
  "programs": {"steps", "parallel"},
  "diffusion": {"spec"},
  "video": {"spec"},
  "nets": {"spec"},
  "text": {"spec", "weights", "programs"},
  "data": {"video", "spec", "media"},
  "stage": {"nets", "diffusion", "video", "text", "spec", "weights"},
  "steps": NUMERIC | {"stage"},
  "parallel": NUMERIC | {"stage"},
  "train": STEPPING | {"sample"},
  "sample": STEPPING,
  "evaluate": STEPPING | {"sample"},
  "bin": STEPPING | {"sample", "evaluate", "train", "configs"},
  "__main__": {"bin", "spec"},
  "__init__": set(),
}

# Packages that a part must not import, directly.
FORBIDDEN_EVERYWHERE = {"tensorflow", "t5x", "seqio", "clu", "torch", "transformers", "imageio", "cv2"}
FORBIDDEN = {
  "spec": {"jax", "jaxlib", "flax", "numpy", "ml_collections"},
  "diffusion": {"flax"},
  "media": {"jax", "jaxlib", "flax"},
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: pathlib.Path) -> set[str]:
  """Full names a module imports anywhere in it; `from a import b` counts as a.b, a string given to import_module too."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}:{node.lineno}: relative import"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
      found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
  return found


def inner_parts(path: pathlib.Path) -> set[str]:
  """Parts of ivid that a module imports, its own left out; `ivid.__version__` and its like count as none."""
  parts = {name.split(".")[1] for name in imports(path) if name.startswith("ivid.")}
  return {p for p in parts if (PACKAGE / p).is_dir() or (PACKAGE / f"{p}.py").exists() or p == "configs"} - {part(path)}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_direction(path):
  known = part(path)
  assert known in ALLOWED, f"{known} has no row in ALLOWED"
  wrong = inner_parts(path) - ALLOWED[known]
  assert not wrong, f"{module_name(path)} imports {sorted(wrong)}; {known} may import {sorted(ALLOWED[known])}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_foreign_packages(path):
  roots = {name.partition(".")[0] for name in imports(path)}
  wrong = roots & (FORBIDDEN_EVERYWHERE | FORBIDDEN.get(part(path), set()))
  assert not wrong, f"{module_name(path)} imports {sorted(wrong)}"


def test_modules_make_no_cycle():
  names = {module_name(path): path for path in MODULES}
  edges = {}
  for name, path in names.items():
    targets = {t if t in names else t.rpartition(".")[0] for t in imports(path)}
    edges[name] = {t for t in targets if t in names and t != name}
  finished, open_ = set(), []

  def visit(name):
    assert name not in open_, " -> ".join([*open_[open_.index(name) :], name])
    if name in finished:
      return
    open_.append(name)
    for target in sorted(edges[name]):
      visit(target)
    finished.add(open_.pop())

  for name in sorted(edges):
    visit(name)


def test_jit_only_in_programs_and_nets():
  for path in MODULES:
    if part(path) in ("programs", "nets"):
      continue
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      used = isinstance(node, ast.Attribute) and node.attr in ("jit", "pmap") and getattr(node.value, "id", "") == "jax"
      assert not used, f"{path.relative_to(ROOT)}:{node.lineno} calls jax.{node.attr}; make a Program and jit that"


def test_every_folder_is_a_package():
  """setup.py finds packages by their __init__.py: a folder without one would be missing from the installed ivid."""
  folders = {path.parent for path in MODULES}
  assert [f for f in folders if not (f / "__init__.py").exists()] == []


IMPORT_ALL = """
import importlib, pkgutil, sys
import ivid
for module in pkgutil.walk_packages(ivid.__path__, "ivid."):
  importlib.import_module(module.name)
assert "tensorflow" not in sys.modules, "tensorflow was imported"
assert "t5x" not in sys.modules, "t5x was imported"
import jax
jax.config.update("jax_num_cpu_devices", 3)  # raises once a backend is initialised
assert jax.device_count() == 3
"""


def test_importing_touches_no_device():
  environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
  environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  run = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
  assert run.returncode == 0, run.stderr
