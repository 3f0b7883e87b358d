"""Contact sheets: rows of pictures and captions on one picture."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ivid.spec.errors import UserError

Cell: TypeAlias = "np.ndarray | str"  # uint8 [H, W, 3], or text

GAP = 4  # pixels between cells
FONT_SIZE = 12
LINE_HEIGHT = 15
TEXT_WIDTH = 180  # of a text cell beside pictures
BACKGROUND, INK = (24, 24, 24), (235, 235, 235)


def contact_sheet(
  clips: Sequence[np.ndarray], *, captions: Sequence[str] | None = None, columns: int = 8, scale: int = 1, header: str = ""
) -> np.ndarray:
  """A picture uint8 [H, W, 3] with one row of frames per clip uint8 [T, H, W, 3].

  A row has up to `columns` frames, spread evenly from the first to the last and magnified `scale` times, with the caption above.

  Raises:
    UserError: there are no clips, the arrays are wrong, or there is not one caption per clip.
  """
  if len(clips) == 0:
    raise UserError("a contact sheet of no clips: expected at least one")
  if captions is not None and len(captions) != len(clips):
    raise UserError(f"{len(captions)} captions for {len(clips)} clips: expected one a clip")
  rows: list[list[Cell]] = [[header]] if header else []
  for i, clip in enumerate(clips):
    clip = np.asarray(clip)
    if clip.ndim != 4 or 0 in clip.shape:
      raise UserError(f"clip {i} is {list(clip.shape)}: expected [T, H, W, 3]")
    if captions is not None:
      rows.append([captions[i]])
    rows.append([clip[t] for t in even_frames(len(clip), columns)])
  return table(rows, scale=scale)


def even_frames(frames: int, columns: int) -> list[int]:
  """Up to `columns` different frame numbers spread evenly over 0 .. frames - 1, both ends included."""
  count = max(1, min(frames, columns))
  return [round(i * (frames - 1) / max(1, count - 1)) for i in range(count)]


def table(rows: Sequence[Sequence[Cell]], *, scale: int = 1) -> np.ndarray:
  """Rows of cells, columns aligned, as a picture uint8 [H, W, 3].

  Pictures are repeated `scale` times along both sides, text is wrapped. A row with a single text spans the whole width.

  Raises:
    UserError: there are no rows, scale is below 1, or a cell is neither text nor uint8 [H, W, 3].
  """
  if not any(len(row) for row in rows):
    raise UserError("a table of no cells: expected at least one")
  if scale < 1:
    raise UserError(f"scale={scale}: expected a whole number of 1 or more")
  cells = [[c if isinstance(c, str) else _magnified(c, scale) for c in row] for row in rows]
  columns = itertools.zip_longest(*(row for row in cells if not _is_banner(row)))
  widths = [max(TEXT_WIDTH if isinstance(c, str) else c.shape[1] for c in column if c is not None) for column in columns]
  inner = max(sum(widths) + GAP * (len(widths) - 1), TEXT_WIDTH)
  heights = [max([_height(c, inner if _is_banner(row) else TEXT_WIDTH) for c in row], default=0) for row in cells]
  sheet = Image.new("RGB", (inner + 2 * GAP, sum(heights) + GAP * (len(heights) + 1)), BACKGROUND)
  draw, font = ImageDraw.Draw(sheet), _font()
  top = GAP
  for row, height in zip(cells, heights, strict=True):
    left = GAP
    for i, cell in enumerate(row):
      if isinstance(cell, str):
        lines = _wrap(cell, inner if _is_banner(row) else TEXT_WIDTH)
        for n, line in enumerate(lines):
          draw.text((left, top + n * LINE_HEIGHT), line, fill=INK, font=font)
      else:
        sheet.paste(Image.fromarray(cell), (left, top))
      left += (inner if _is_banner(row) else widths[i]) + GAP
    top += height + GAP
  return np.asarray(sheet)


def _is_banner(row: Sequence[Cell]) -> bool:
  return len(row) == 1 and isinstance(row[0], str)


def _magnified(picture: np.ndarray, scale: int) -> np.ndarray:
  picture = np.asarray(picture)
  if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
    raise UserError(f"a cell is {picture.dtype} {list(picture.shape)}: expected text or uint8 [H, W, 3]")
  return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def _height(cell: Cell, width: int) -> int:
  return len(_wrap(cell, width)) * LINE_HEIGHT if isinstance(cell, str) else cell.shape[0]


def _wrap(text: str, width: int) -> list[str]:
  """Lines of `text` that fit `width` pixels."""
  font = _font()
  fitting = max(1, int(width // max(1.0, font.getlength("n"))))
  return [line for part in text.split("\n") for line in textwrap.wrap(part, fitting) or [""]]


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
  return ImageFont.load_default(FONT_SIZE)
