"""The direction of imports, read with ast; and what importing ivid costs."""

from __future__ import annotations

import ast
import importlib
import os
import pathlib
import subprocess
import sys
import types

import pytest

import ivid

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "ivid"

# A part is a folder of ivid/ or a module of it. It may import the parts of the lines below its own, and nothing else: parts of one line do
# not import each other, and a part that is on no line is an error.
ORDER = (
  ("__main__",),
  ("bin",),
  ("pipeline", "measure"),
  ("runs",),
  ("evaluate",),
  ("sample",),
  ("train",),
  ("data",),
  ("text",),
  ("stage",),
  ("steps",),
  ("weights",),
  ("parallel", "moving_shapes"),
  ("nets", "diffusion", "video", "media", "programs", "flops", "prefetch"),
  ("config",),
  ("spec",),
)
LINE = {name: n for n, names in enumerate(ORDER) for name in names}

# Packages that a part must not import, directly.
FORBIDDEN_EVERYWHERE = {"tensorflow", "t5x", "seqio", "clu", "torch", "transformers", "imageio", "cv2"}
FORBIDDEN = {
  "spec": {"jax", "jaxlib", "flax", "numpy", "ml_collections"},
  "diffusion": {"flax"},
  "media": {"jax", "jaxlib", "flax"},
}


def modules(package: pathlib.Path) -> list[pathlib.Path]:
  return sorted(package.rglob("*.py"))


def module_name(path: pathlib.Path, package: pathlib.Path) -> str:
  parts = path.relative_to(package.parent).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(path: pathlib.Path, package: pathlib.Path) -> str:
  return path.relative_to(package).with_suffix("").parts[0]


def imports(path: pathlib.Path, package: pathlib.Path) -> set[str]:
  """Full names that a module imports anywhere in it, under TYPE_CHECKING too: the order is one of design, not of what happens to run.

  `from a import b` counts as a.b, and so do `ivid.b` behind `import ivid` and a string that is given to import_module.

  Of the front door, ivid/__init__.py, what stands under TYPE_CHECKING is left out, and the table from which it resolves names counts as no
  imports: it is executed before every module of ivid, so it imports none itself, but type checkers have to learn where its names come from.
  """
  tree = ast.parse(path.read_text(encoding="utf-8"))
  if path == package / "__init__.py":
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING")]
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}:{node.lineno}: relative import"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
    elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "ivid":
      found.add(f"ivid.{node.attr}")
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
      found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
  return found


def wrong_imports(package: pathlib.Path) -> list[str]:
  """A line for each import that ORDER does not allow; `ivid.__version__` and its like are no import."""
  wrong = []
  for path in modules(package):
    own, name = part(path, package), module_name(path, package)
    if own not in LINE and path != package / "__init__.py":
      wrong.append(f"{name}: {own} is on no line of ORDER")
      continue
    inner = {found.split(".")[1] for found in imports(path, package) if found.startswith("ivid.")} - {own}
    for other in sorted(one for one in inner if one in LINE or not one.startswith("__")):
      if other not in LINE:
        wrong.append(f"{name} imports ivid.{other}, which is on no line of ORDER: a name of the front door is for users alone")
      elif own not in LINE or LINE[other] <= LINE[own]:
        wrong.append(f"{name} imports {other}, which is not below {own} in ORDER")
  return wrong


def test_direction():
  assert wrong_imports(PACKAGE) == []


def test_every_part_in_the_order_is_there():
  assert [name for name in LINE if not (PACKAGE / name).is_dir() and not (PACKAGE / f"{name}.py").is_file()] == []


FRONT_DOOR = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from ivid.stage import Stage as Stage\n"


@pytest.mark.parametrize(
  ("name", "source", "complaint"),
  [
    ("train/loop.py", "from ivid.data.pipeline import Split\nfrom ivid.train.metrics import Series\nimport jax", None),
    ("runs/training.py", "def f():\n  from ivid import spec, nets", None),
    ("bin/train.py", "import ivid\nprint(ivid.__version__, ivid.__file__)", None),
    ("__init__.py", FRONT_DOOR, None),
    ("train/loop.py", "import ivid.sample.runner", "ivid.train.loop imports sample, which is not below train"),
    ("train/loop.py", "def f():\n  from ivid import sample", "ivid.train.loop imports sample"),
    ("train/loop.py", FRONT_DOOR.replace("stage", "sample"), "ivid.train.loop imports sample"),
    ("train/loop.py", "importlib.import_module('ivid.sample')", "ivid.train.loop imports sample"),
    ("train/loop.py", "import ivid\nivid.sample.runner.run()", "ivid.train.loop imports sample"),
    ("nets/unet.py", "from ivid.diffusion import process", "ivid.nets.unet imports diffusion, which is not below nets"),
    ("spec/run.py", "from ivid.config import load_run", "ivid.spec.run imports config"),
    ("spec/run.py", "from ivid.__main__ import main", "ivid.spec.run imports __main__"),
    ("stage.py", "from ivid import Cascade", "ivid.stage imports ivid.Cascade, which is on no line"),
    ("stage.py", "import ivid\nivid.load('nano')", "ivid.stage imports ivid.load, which is on no line"),
    ("helpers/a.py", "", "ivid.helpers.a: helpers is on no line"),
    ("__init__.py", "from ivid.stage import Stage", "ivid imports stage"),
  ],
)
def test_the_test_of_the_direction(tmp_path, name, source, complaint):
  path = tmp_path / "ivid" / name
  path.parent.mkdir(parents=True)
  path.write_text(source)
  found = wrong_imports(tmp_path / "ivid")
  assert found == [] if complaint is None else len(found) == 1 and found[0].startswith(complaint), found


def test_programs_import_nothing_of_ivid():
  assert {name for name in imports(PACKAGE / "programs.py", PACKAGE) if name.startswith("ivid")} == set()


def test_foreign_packages():
  for path in modules(PACKAGE):
    roots = {name.partition(".")[0] for name in imports(path, PACKAGE)}
    wrong = roots & (FORBIDDEN_EVERYWHERE | FORBIDDEN.get(part(path, PACKAGE), set()))
    assert not wrong, f"{module_name(path, PACKAGE)} imports {sorted(wrong)}"


def test_modules_make_no_cycle():
  names = {module_name(path, PACKAGE): path for path in modules(PACKAGE)}
  edges = {}
  for name, path in names.items():
    targets = {t if t in names else t.rpartition(".")[0] for t in imports(path, PACKAGE)}
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
  for path in modules(PACKAGE):
    if part(path, PACKAGE) in ("programs", "nets"):
      continue
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      used = isinstance(node, ast.Attribute) and node.attr in ("jit", "pmap") and getattr(node.value, "id", "") == "jax"
      assert not used, f"{path.relative_to(ROOT)}:{node.lineno} calls jax.{node.attr}; make a Program and jit that"


def test_every_folder_is_a_package():
  """setup.py finds packages by their __init__.py: a folder without one would be missing from the installed ivid."""
  folders = {path.parent for path in modules(PACKAGE)}
  assert [f for f in folders if not (f / "__init__.py").exists()] == []


def test_the_front_door_names_for_type_checkers_what_it_resolves():
  tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
  checked = {}
  for block in (node for node in tree.body if isinstance(node, ast.If)):
    checked |= {alias.asname: f"{node.module}.{alias.name}" for node in block.body for alias in node.names}
  assert sorted(checked) == sorted(set(ivid.__all__) - {"__version__"})
  for name, full in checked.items():
    module, _, inner = full.rpartition(".")
    assert getattr(ivid, name) is getattr(importlib.import_module(module), inner) is getattr(ivid, name), full


def test_the_function_train_is_not_hidden_by_the_package():
  importlib.import_module("ivid.train.loop")
  assert isinstance(ivid.train, types.FunctionType) and isinstance(sys.modules["ivid.train"], types.ModuleType)


def run_python(code: str) -> None:
  """Runs the code in a process of its own, which knows nothing of this one's flags and imports."""
  environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
  environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
  assert run.returncode == 0, run.stderr


def test_the_front_door_imports_no_jax():
  run_python("""
import sys
import ivid
dir(ivid), ivid.__all__, ivid.__version__
heavy = {"jax", "jaxlib", "flax", "numpy"} & sys.modules.keys()
assert not heavy, heavy
ivid.UserError, ivid.StageSpec  # specs are pure Python
heavy = {"jax", "jaxlib", "flax", "numpy"} & sys.modules.keys()
assert not heavy, heavy
""")


def test_importing_touches_no_device():
  run_python("""
import importlib, pkgutil, sys
import ivid
for module in pkgutil.walk_packages(ivid.__path__, "ivid."):
  importlib.import_module(module.name)
assert "tensorflow" not in sys.modules, "tensorflow was imported"
assert "t5x" not in sys.modules, "t5x was imported"
import jax
jax.config.update("jax_num_cpu_devices", 3)  # raises once a backend is initialised
assert jax.device_count() == 3
""")
