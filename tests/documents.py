"""What the pages of documentation hold: links, code, and commands."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
import shlex
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  ROOT / "CHANGELOG.md",
  *sorted((ROOT / "docs").glob("*.md")),
  ROOT / "launch/README.md",
]
RUN = re.compile(r"<!-- run(?: after (?P<page>\S+))? -->")


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block.

  Attributes:
    language: of the fence, such as sh.
    run: whether `<!-- run -->` stands on the line above; the tests run it.
    after: the page whose blocks run before it in the same folder, if any.
    printed: text of the next block, if that is of the language text: lines that it prints.
  """

  language: str
  text: str
  run: bool = False
  after: str = ""
  printed: str = ""


def name_of(page: pathlib.Path) -> str:
  return str(page.relative_to(ROOT))


@functools.cache
def read(page: pathlib.Path) -> tuple[str, tuple[Block, ...]]:
  """The page's prose, without its fenced blocks, and the blocks."""
  prose, blocks, inside, before = [], [], None, ""
  for line in page.read_text(encoding="utf-8").splitlines():
    if line.startswith("```") and inside is None:
      asked = RUN.fullmatch(before)
      inside = (line[3:].strip(), bool(asked), (asked and asked["page"]) or "", [])
    elif line.startswith("```"):
      language, run, after, lines = inside
      text = "\n".join(lines) + "\n"
      if language == "text" and blocks and blocks[-1].run:
        blocks[-1] = dataclasses.replace(blocks[-1], printed=text)
      else:
        blocks.append(Block(language, text, run, after))
      inside = None
    elif inside is not None:
      inside[3].append(line)
    else:
      prose.append(line)
    before = line
  assert inside is None, f"{page}: a block that does not end"
  return "\n".join(prose), tuple(blocks)


def links(page: pathlib.Path) -> list[str]:
  """Targets of the page's links and pictures."""
  prose = read(page)[0]
  return re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'src="([^"]+)"', prose)


def spans(page: pathlib.Path) -> list[str]:
  """Inline code."""
  return re.findall(r"`([^`\n]+)`", read(page)[0])


def anchors(page: pathlib.Path) -> set[str]:
  """Names of the page's headings in links, as GitHub makes them."""
  titles = re.findall(r"^#+ (.+)$", read(page)[0], re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def shell_lines(text: str) -> Iterator[list[str]]:
  """The words of each simple command of a script; continued lines are joined, and what follows # is left out."""
  for line in text.replace("\\\n", " ").splitlines():
    words: list[str] = []
    for word in shlex.split(line, comments=True):
      if word in ("&&", ";", "|"):
        yield words
        words = []
      else:
        words.append(word)
    if words:
      yield words


def commands(page: pathlib.Path) -> list[list[str]]:
  """Every command of the page's shell blocks, and every span of inline code that is a whole command."""
  found = [words for block in read(page)[1] if block.language == "sh" for words in shell_lines(block.text)]
  starts = ("ivid ", "python ", "launch/")
  return found + [words for span in spans(page) if span.startswith(starts) and " " in span for words in shell_lines(span)]


def ivid_commands(words: list[str]) -> list[list[str]]:
  """The words behind `ivid` of each ivid command that a command is or starts: of launch/ those behind `--`, of a queue each text."""
  if words[:1] == ["ivid"]:
    return [words[1:]]
  if not any(word.startswith("launch/") for word in words[:2]) or "--" not in words:
    return []
  behind = words[words.index("--") + 1 :]
  return [shlex.split(run) for run in behind] if "launch/queue.py" in words else [behind]
