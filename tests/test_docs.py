"""What README, docs/ and launch/README.md promise: links lead somewhere, files and names exist, commands parse, and those marked run."""

import ast
import functools
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import ivid
from ivid import __main__ as command_line
from ivid.bin.options import NAMES, read_options
from ivid.config import load_run
from tests.documents import PAGES, ROOT, Block, anchors, commands, ivid_commands, links, name_of, read, spans

LAUNCH = ROOT / "launch"
PLACEHOLDER = re.compile(r"\b(COMMAND|NAME|FILE|DIR|FOLDER|PATH|STAGE|WORKDIR|COLUMN|BUCKET|ROWS|SCENES|CLIPS)\b")
TOP = ("ivid/", "configs/", "launch/", "tests/", "docs/", ".ci/", ".github/")
CONFIGS = {path.stem for path in (ROOT / "configs").glob("*.py")}
NOTEBOOKS = sorted((ROOT / "docs").glob("examples/*.ipynb"))
SECONDS = 1800  # for one block
pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pages
def test_links_inside_the_repository_lead_somewhere(page):
  for link in links(page):
    if "://" in link:
      continue
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists() and target.is_relative_to(ROOT), f"{link}: no such file"
    assert not anchor or anchor in anchors(target), f"{link}: no such heading, expected one of {sorted(anchors(target))}"


def missing_file(span, page):
  """Whether inline code names a file of the repository that is not there; a pattern has to match one."""
  if " " in span or PLACEHOLDER.search(span):
    return False
  if span.startswith(TOP):
    return not any(ROOT.glob(span.rstrip("/")))
  return page.parent == LAUNCH and re.fullmatch(r"\w+\.sh", span) is not None and not (LAUNCH / span).exists()


@pages
def test_files_that_are_named_exist(page):
  assert [span for span in spans(page) if missing_file(span, page)] == []


def defined_in(path):
  """Names at the top of a module."""
  found = set()
  for node in ast.parse(path.read_text(encoding="utf-8")).body:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    found |= {target.id for target in targets if isinstance(target, ast.Name)} | ({node.name} if hasattr(node, "name") else set())
  return found


def known_name(dotted):
  """Whether `ivid.a.b` is a module, a name of a module, or one of the front door's."""
  parts = dotted.split(".")
  if len(parts) == 2 and parts[1] in ivid.__all__:
    return True
  if any((ROOT / "/".join(parts)).with_suffix(suffix).exists() for suffix in ("", ".py")):
    return True
  module = ROOT / ("/".join(parts[:-1]) + ".py")
  return module.exists() and parts[-1] in defined_in(module)


@pages
def test_names_of_the_package_exist(page):
  found = [match for span in spans(page) for match in re.findall(r"\bivid(?:\.[A-Za-z_]\w*)+", span) if not span.startswith(TOP)]
  found += [word for words in commands(page) for before, word in zip(words, words[1:], strict=False) if before == "-m" and "ivid" in word]
  assert [name for name in found if not known_name(name)] == []


class Parsed(Exception):
  """Raised in place of what a command does once its command line is read."""


def parse(words):
  """Reads a command line as the command itself does; returns its module and ivid.bin.flags.CommandLine. Nothing is run."""
  name, *rest = words
  assert name in command_line.commands(), f"ivid {name}: no such command"
  module = importlib.import_module(f"ivid.bin.{name}")
  real, lines = module.parse_flags, []

  def stop(*args, **options):
    lines.append(real(*args, **options))
    raise Parsed

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(module, "parse_flags", stop)
    with pytest.raises(Parsed):
      module.main([f"ivid {name}", *rest])
  return module, lines[0]


@functools.cache
def run_of(config, overrides):
  return load_run(config, overrides)


@functools.cache
def stage_names(cascade):
  return run_of(cascade, ()).cascade.stage_names


def check(words):
  """A command's flags, the values that can be read without running it, its overrides, and the stages that it names."""
  if words[-1] == "--help":
    words = words[:-1]
  if not words:
    return
  module, line = parse(words)
  values = line.flags
  known = getattr(module, "COMMANDS", None) or getattr(module, "SUBJECTS", None)
  assert known is None or not line.words or line.words[0] in known, line.words
  config = values["config"].value if "config" in values else None
  if config and config.partition(":")[0] in CONFIGS:
    run = run_of(config, tuple(line.overrides))
    if words[0] == "bundle":
      assert [word for word in line.words if word.partition("=")[0] not in run.cascade.stage_names] == []
  read_options(values, tuple(name for name in NAMES if name in values and values[name].flag_type() == "string"))
  for name in ("start_stage", "stop_stage"):
    assert name not in values or not values[name].value or values[name].value in stage_names("nano"), values[name].value


def refused(words):
  """What is wrong with a command, in a line; None if it is right."""
  try:
    check(words)
  except (ivid.UserError, AssertionError) as error:
    return f"ivid {' '.join(words)}: {error}"


@pages
def test_ivid_commands_parse(page):
  found = [words for line in commands(page) for words in ivid_commands(line) if not PLACEHOLDER.fullmatch(words[0])]
  assert [refused(words) for words in found if refused(words)] == []


def test_a_wrong_command_is_found():
  assert "stop_stagee" in refused(["sample", "--prompt=...", "--stop_stagee=ssr1"])
  assert "no such command" in refused(["smaple"])
  assert "batch_siz" in refused(["train", "--config=tiny:base", "--config.train.batch_siz=4"])
  assert "ssr9" in refused(["sample", "--prompt=...", "--stop_stage=ssr9"])
  assert "tsr9" in refused(["bundle", "--config=nano", "--out=a", "tsr9=runs/a"])
  assert refused(["data", "prepair", "--out=a"]) is not None
  assert refused(["sample", "--steps=base:4"]) is not None


def script_flags(script):
  """Names of the flags of a launch script, and its actions (none of a Python one)."""
  text = (LAUNCH / script).read_text()
  if script.endswith(".py"):
    return set(re.findall(r'"--(\w+)"', text)), set()
  return set(re.findall(r"\[(\w+)\]=", text)) | {"dry_run"}, set(re.search(r'^parse "([^"]+)"', text, re.MULTILINE)[1].split())


@pages
def test_launch_commands_have_actions_and_flags_of_their_scripts(page):
  for words in commands(page):
    script = next((word for word in words[:2] if re.fullmatch(r"launch/\w+\.(sh|py)", word)), None)
    if script is None or words[0] == "bash":
      continue
    known, actions = script_flags(script.removeprefix("launch/"))
    rest = words[words.index(script) + 1 :]
    own = rest[: rest.index("--")] if "--" in rest else rest
    assert not actions or own[:1] == [] or own[0] in actions, words
    assert [word for word in own if word.startswith("--") and word[2:].partition("=")[0] not in known] == [], words


@functools.cache
def all_flags():
  """Every flag of ivid and launch/, and of the package's own scripts."""
  found = set()
  for name in command_line.commands():
    module = importlib.import_module(f"ivid.bin.{name}")
    found |= set(parse([name])[1].flags) | {"help"} if hasattr(module, "define_flags") else set()
  for path in LAUNCH.glob("*.*"):
    if path.suffix in (".py", ".sh"):
      found |= set(re.findall(r'"?--(\w+)"?', path.read_text())) | set(re.findall(r"\[(\w+)\]=", path.read_text()))
  return found


@pages
def test_flags_that_are_named_exist(page):
  named = {match for span in spans(page) if span.startswith("--") for match in re.findall(r"^--(?!config\.)(\w+)", span)}
  assert named - all_flags() == set()


@pages
def test_extras_exist(page):
  named = set(re.findall(r"(?:\.|ivid)\[([a-z]\w*)\]'", page.read_text(encoding="utf-8")))
  assert [extra for extra in named if f'"{extra}": ' not in (ROOT / "setup.py").read_text()] == []


def test_readme_fits_a_few_screens():
  assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_one_version():
  said = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
  newest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
  assert said == newest == ivid.__version__


def test_every_format_is_in_the_changelog():
  from ivid.spec.formats import FORMAT

  text = (ROOT / "CHANGELOG.md").read_text()
  assert [number for number in range(1, FORMAT + 1) if f"- Format {number}:" not in text] == []


# Notebooks.

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)


def cells(path, kind):
  """Sources of a notebook's cells of this kind."""
  return ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@notebooks
def test_notebooks_link_to_files_that_exist_and_show_what_they_make(path):
  links = [link for text in cells(path, "markdown") for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
  assert links and [link for link in links if not (path.parent / link).exists()] == []
  text = path.read_text(encoding="utf-8")
  assert text.count('"image/png"') >= 3, "run the notebook and save it with its outputs"
  assert '"output_type": "error"' not in text and '"output_type": "stream",\n   "name": "stderr"' not in text


@pytest.mark.docs
@notebooks
def test_notebooks_run(path, tmp_path):
  """Cell after cell in one interpreter, as Jupyter runs them; plots are drawn and not shown."""
  script = "import matplotlib\nmatplotlib.use('Agg')\n" + "\n".join(cells(path, "code"))
  (tmp_path / "notebook.py").write_text(script, encoding="utf-8")
  printed = run_block(Block("sh", f"{sys.executable} notebook.py"), tmp_path)
  assert "(32, 48, 80, 3)" in printed


# What is run.


def blocks_of(page):
  return [block for block in read(page)[1] if block.run]


def run_block(block, folder):
  script = ["bash", "-euo", "pipefail", "-c", block.text] if block.language == "sh" else [sys.executable, "-c", block.text]
  variables = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
  variables.pop("XLA_FLAGS", None)  # of the tests: as many devices as a user has
  done = subprocess.run(script, cwd=folder, env=variables, capture_output=True, text=True, timeout=SECONDS)
  assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
  return done.stdout + done.stderr


@pytest.mark.docs
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=name_of)
def test_blocks_run(page, tmp_path):
  """A page's marked blocks, one after the other in an empty folder; each line that the page says they print is among what they print."""
  for block in blocks_of(page):
    before = blocks_of(page.parent / block.after) if block.after else []
    for one in before:
      run_block(one, tmp_path)
    printed = run_block(block, tmp_path)
    assert [line for line in block.printed.splitlines() if line not in printed] == [], printed[-2000:]


@pytest.mark.docs
def test_the_first_command(tmp_path):
  """What the README's first command makes, without its installation."""
  from ivid.media.clips import read_clip

  block = next(block for block in read(ROOT / "README.md")[1] if "ivid sample" in block.text)
  said = re.search(r"(\d+) frames of (\d+)x(\d+) at (\d+) fps", block.text)
  line = block.text.strip().rpartition("&& ")[2]
  run_block(type(block)("sh", line), tmp_path)
  (clip,), (settings,) = (list((tmp_path / "out").glob(f"*.{suffix}")) for suffix in ("mp4", "json"))
  assert settings.stem == clip.stem
  frames, fps = read_clip(clip)
  assert [*frames.shape[:3], fps] == [int(said[n]) for n in (1, 3, 2, 4)]
