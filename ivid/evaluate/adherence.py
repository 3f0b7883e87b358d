"""Judges clips for adherence and writes the report: JSON, confusion matrices, a sheet of failures and a sheet of the first prompts."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ivid.evaluate.judged import Judging
from ivid.evaluate.prompts import Prompt
from ivid.evaluate.shares import Kept, Work, make_share
from ivid.evaluate.summary import confusion, summarize
from ivid.media.clips import ClipFile
from ivid.media.files import write_whole
from ivid.media.pictures import write_png
from ivid.media.plot import plot_confusion
from ivid.media.sheet import contact_sheet, even_frames, table
from ivid.moving_shapes.grammar import BACKGROUNDS, COLOUR_NAMES, FIRST_LETTER, MOTIONS, SHAPES, SIZES
from ivid.moving_shapes.image_observer import observe_image
from ivid.moving_shapes.observer import LETTER, PLAIN_SHAPE, UNCLEAR, Observation, observe, score
from ivid.spec import convert, formats

RESULTS, CONFUSION, FAILURES, FIRST = "adherence.json", "confusion.png", "failures.png", "first.png"
FIRST_PROMPTS = 16
MAX_FAILURES = 24
COLUMNS = 8
SHEET_HEIGHT = 48  # approximate height of the frames on a sheet, in pixels
IMAGE_COLUMNS, IMAGE_WIDTH = 4, 180  # columns of a sheet of single images
PLAIN_SHAPES = SHAPES[:FIRST_LETTER]
UNCLEAR_NAME, MISSING = "unclear", "nothing"


@dataclasses.dataclass(frozen=True)
class Result:
  """The result for a clip or image: what was asked, seen and right, and a few small frames [t, h, w, 3] uint8 for the sheets."""

  prompt: Prompt
  seen: Observation
  right: dict[str, bool | None]
  frames: np.ndarray


def judge(prompt: Prompt, clip: np.ndarray | ClipFile) -> Result:
  """The result for one clip uint8 [T, H, W, 3], or for its first frame if the prompt asks for an image.

  Raises:
    UserError: the clip is too short or too small.
  """
  seen = observe_image(clip[0]) if prompt.image else observe(clip)  # pyright: ignore[reportArgumentType]  a clip in a file is read like an array
  return Result(prompt, seen, score(seen, prompt.attributes), _thumbnails(clip))


def judge_share(judging: Judging, folder: pathlib.Path, process: tuple[int, int] | None) -> list[Result] | None:
  """The results for all clips; None while those of other processes are missing. Arguments and errors: see shares.make_share."""
  prompts = judging.prompts
  asked = [(prompt.text, prompt.group, prompt.image) for prompt in prompts]

  def make(numbers: Sequence[int]) -> Iterator[Result]:
    return (judge(prompts[n], clip) for n, clip in zip(numbers, judging.clips(numbers), strict=True))

  def keep(result: Result) -> Kept:
    return dict(seen=convert.to_dict(result.seen), right=result.right), dict(frames=result.frames)

  def restore(n: int, kept: Kept) -> Result:
    record, arrays = kept
    return Result(prompts[n], convert.from_dict(Observation, record["seen"]), record["right"], arrays["frames"])

  work = Work(dict(metric="adherence", asked=asked, **judging.key), len(prompts), judging.batch, make)
  return make_share(work, folder, process, keep, restore)


def write_report(folder: pathlib.Path, results: Sequence[Result], made_by: dict[str, Any]) -> dict[str, dict[str, dict]]:
  """Writes the four files into the folder (FAILURES only if there are any) and returns the summary, by group and attribute.

  Args:
    made_by: where the clips come from, kept in the JSON.
  """
  summary = summarize([result.prompt.group for result in results], [result.right for result in results])
  clips = [
    dict(prompt=result.prompt.text, group=result.prompt.group, seen=result.seen.text, right=dict(result.right)) for result in results
  ]
  images = any(result.prompt.image for result in results)
  found = dict(metric="adherence", images=images, made_by=made_by, clips=len(results), summary=summary, results=clips)
  record = formats.stamped(found)
  write_whole(folder / RESULTS, json.dumps(record, indent=1) + "\n")
  plot_confusion(confusion_matrices(results), folder / CONFUSION)
  _write_sheet(folder / FIRST, results[:FIRST_PROMPTS])
  failed = [result for result in results if not result.right["all"]]
  if failed:
    _write_sheet(folder / FAILURES, failed[:MAX_FAILURES])
  else:
    (folder / FAILURES).unlink(missing_ok=True)  # of an earlier evaluation
  return summary


def format_summary(summary: dict[str, dict[str, dict]]) -> str:
  """A table: one line per group, one column per attribute, in percent, with the 95% interval of "all"; "-" without prompts."""
  columns = list(next(iter(summary.values())))
  lines = [f"{'prompts':14} {'of':>5} " + " ".join(f"{name:>11}" for name in columns)]
  for group, rates in summary.items():
    found = [rates[name]["rate"] for name in columns]
    cells = " ".join(f"{'-':>11}" if share is None else f"{100 * share:10.1f}%" for share in found)
    whole = rates["all"]
    lines.append(f"{group:14} {whole['of']:5} {cells}  (all: {100 * whole['low']:.1f} to {100 * whole['high']:.1f}%)")
  return "\n".join(lines)


def confusion_matrices(results: Iterable[Result]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
  """Rows asked, columns seen, of each object's size, colour, shape (all letters together) and, in clips, motion, and of the background.

  The objects of a prompt and of a clip are paired by colour, the remaining ones in order. Without a partner, "nothing" was seen.
  """
  results = list(results)
  tables = {"size": SIZES, "colour": COLOUR_NAMES, "shape": (*PLAIN_SHAPES, LETTER), "motion": MOTIONS, "background": BACKGROUNDS}
  if any(result.prompt.image for result in results):
    del tables["motion"]
  pairs: dict[str, list[tuple[str, str]]] = {name: [] for name in tables}
  for result in results:
    behind = result.seen.background
    pairs["background"].append(
      (BACKGROUNDS[result.prompt.attributes.background], UNCLEAR_NAME if behind == UNCLEAR else BACKGROUNDS[behind])
    )
    left = list(result.seen.objects)
    for item in sorted(result.prompt.attributes.objects, key=lambda item: all(item.colour != other.colour for other in left)):
      same = next((other for other in left if other.colour == item.colour), left[0] if left else None)
      if same is not None:
        left.remove(same)
      words = same.words if same is not None else (MISSING,) * 4
      for name, asked, seen in zip(list(tables)[:-1], item.words, words, strict=False):  # an image has no motion
        pairs[name].append((_kind(asked), _kind(seen)))
  return {
    name: (names := (*table, UNCLEAR_NAME, MISSING), confusion(*zip(*pairs[name], strict=True), names))  # pyright: ignore[reportCallIssue]  pairs: two sequences
    for name, table in tables.items()
  }


def _kind(word: str) -> str:
  return LETTER if word.startswith(LETTER) else word


def _thumbnails(clip: np.ndarray | ClipFile) -> np.ndarray:
  """Evenly spread frames at about SHEET_HEIGHT rows, by picking pixels: enough to look at."""
  step = max(1, clip.shape[1] // SHEET_HEIGHT)
  return clip[even_frames(len(clip), COLUMNS)][:, ::step, ::step].copy()


def _write_sheet(path: pathlib.Path, results: Sequence[Result]) -> None:
  if results[0].prompt.image:
    return _write_images(path, results)
  captions = [f"asked: {result.prompt.text}\nseen: {result.seen.text}; wrong: {_wrong(result)}" for result in results]
  frames = [result.frames for result in results]
  write_png(path, contact_sheet(frames, captions=captions, columns=COLUMNS, scale=max(1, SHEET_HEIGHT // frames[0].shape[1])))


def _write_images(path: pathlib.Path, results: Sequence[Result]) -> None:
  """Rows of IMAGE_COLUMNS magnified images, each above what was asked and seen."""
  rows = []
  for start in range(0, len(results), IMAGE_COLUMNS):
    some = results[start : start + IMAGE_COLUMNS]
    texts = [f"asked: {result.prompt.text}\nseen: {result.seen.text}; wrong: {_wrong(result)}" for result in some]
    rows += [[result.frames[0] for result in some], texts if len(some) > 1 else [*texts, ""]]  # a text alone would run across the sheet
  write_png(path, table(rows, scale=max(1, IMAGE_WIDTH // results[0].frames.shape[2])))


def _wrong(result: Result) -> str:
  kinds = ("all", PLAIN_SHAPE, LETTER)  # said by the others
  return ", ".join(name for name, right in result.right.items() if not right and name not in kinds) or "nothing"
