"""The clips, images and captions that a folder or a list (CSV, JSONL, Parquet) names, local, in a bucket or on the web (fsspec).

Only captions are opened, and nothing ends the listing: what has no caption, and a line that cannot be read, is an item with a problem.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import posixpath
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple, cast

import fsspec

from ivid.data.remote import file_system, is_local, read_bytes
from ivid.spec.errors import UserError, first_line, nearest
from ivid.spec.paths import not_missing

CLIPS = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv", ".gif", ".apng")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif")
TEXTS = (".txt", ".json")  # suffixes of captions beside a clip; the first that exists counts
LISTS = (".csv", ".jsonl", ".parquet")
PARQUET_ROWS = 4096  # in memory at a time
CAPTION_BYTES = 1 << 24  # of a file of captions
CAPTION_KEYS = ("caption", "captions")


@dataclasses.dataclass(frozen=True)
class Item:
  """One clip or image.

  Attributes:
    media: its path or address.
    captions: at least one, unless there is a problem.
    columns: the user's own columns, as text.
    problem: why it cannot be used; empty if no reason is known.
    size: bytes of the file; -1 if this is unknown before it is opened.
  """

  media: str
  captions: tuple[str, ...] = ()
  columns: dict[str, str] = dataclasses.field(default_factory=dict)
  problem: str = ""
  size: int = -1


def items(source: str, *, media_column: str = "path", caption_column: str = "caption") -> Iterator[Item]:
  """The items of a folder, sorted by name, or of a list, line by line.

  In a folder, a.txt (one caption) or a.json (a text, a list of texts, or an object with `caption` or `captions`, whose other keys are
  columns) is the caption of a.mp4 and of every other file of that stem. A list's paths are relative to its folder.

  Raises:
    UserError: it is neither a folder nor a list, is empty, or is a list that lacks one of the two columns.
  """
  system, root = file_system(source)
  if system.isfile(root):
    suffix = posixpath.splitext(root)[1].lower()
    if suffix not in _READERS:
      raise UserError(f"--input={source}: {nearest(suffix, LISTS)}, or a folder")
    try:
      with system.open(root, "rb") as file:
        yield from _listed(source, base(source), _READERS[suffix](cast("IO[bytes]", file), source), media_column, caption_column)
    except UserError:
      raise
    except Exception as error:  # each kind of server has errors of its own
      if is_local(system):
        raise
      raise UserError(f"--input={source} cannot be read: {first_line(error)}") from None
  elif system.isdir(root):
    yield from _beside(source, system, root)
  else:
    raise UserError(f"--input={source}: no such folder or list{not_missing(root) if is_local(system) else ''}")


def as_unicode(item: Item) -> Item:
  """The item or, if one of its names or texts is not Unicode, an item with that problem."""
  try:
    "".join((item.media, *item.captions, *item.columns, *item.columns.values())).encode("utf-8")
  except UnicodeEncodeError as error:
    media, problem = (text.encode("utf-8", "backslashreplace").decode() for text in (item.media, item.problem))
    wrong = error.object[error.start : error.end]
    return Item(media, problem=problem or f"no UTF-8: {wrong!r} in its name, captions or columns", size=item.size)
  return item


def base(source: str) -> str:
  """The folder to which paths are relative: the source itself, or the folder of a list."""
  system, root = file_system(source)
  return _address(system, posixpath.dirname(root) if system.isfile(root) else root)


def _beside(source: str, system: fsspec.AbstractFileSystem, root: str) -> Iterator[Item]:
  """The items of a folder and of the folders below it."""
  found = {path: entry.get("size") or 0 for path, entry in sorted(system.find(root, detail=True).items()) if not _hidden(path, root)}  # pyright: ignore[reportAttributeAccessIssue]  fsspec gives a dictionary where details are asked for
  texts = {path for path in found if path.lower().endswith(TEXTS)}
  if len(texts) == len(found):
    raise UserError(f"--input={source} holds no clips or images: expected files ending in {', '.join((*CLIPS[:5], *IMAGES[:4]))} ...")
  beside = {posixpath.splitext(path)[0] + posixpath.splitext(path)[1].lower(): path for path in texts}
  used = set()
  for path, size in found.items():
    if path in texts:
      continue
    stem, suffix = posixpath.splitext(path)
    media = _address(system, path)
    text = next((beside[stem + kind] for kind in TEXTS if stem + kind in beside), None)
    if suffix.lower() not in (*CLIPS, *IMAGES):
      yield Item(media, problem=f"neither clip nor image: a {suffix or 'nameless'} file", size=size)
    elif text is None:
      yield Item(media, problem=f"no caption: expected {posixpath.basename(stem)}.txt or .json beside it", size=size)
    else:
      used.add(text)
      yield _captioned(media, system, text, size)
  for text in sorted(texts - used):
    yield Item(_address(system, text), problem="a caption alone: no clip or image has its name", size=found[text])


def _hidden(path: str, root: str) -> bool:
  """Whether the name of a file, or of a folder on the way to it, begins with a dot, like the ._ files of macOS."""
  return any(part.startswith(".") for part in path[len(root) :].split("/"))


def _address(system: fsspec.AbstractFileSystem, path: str) -> str:
  return path if is_local(system) else system.unstrip_protocol(path)


def _captioned(media: str, system: fsspec.AbstractFileSystem, text: str, size: int) -> Item:
  try:
    written = decoded(read_bytes(_address(system, text), most=CAPTION_BYTES), text)
    value = json.loads(written) if text.lower().endswith(".json") else written
  except UserError as error:
    return Item(media, problem=str(error), size=size)
  except (ValueError, RecursionError) as error:
    return Item(media, problem=f"no JSON: {text}: {error}", size=size)
  except Exception as error:  # each kind of server has errors of its own
    return Item(media, problem=f"a caption that cannot be read: {text}: {error}", size=size)
  columns = {}
  if isinstance(value, dict):
    columns = {str(key): as_text(column) for key, column in value.items() if key not in CAPTION_KEYS}
    value = next((value[key] for key in CAPTION_KEYS if key in value), None)
  return _item(media, value, columns, size, where=text)


def decoded(data: bytes, name: str) -> str:
  """The text of UTF-8 bytes with or without a byte order mark. Otherwise raises UserError, which names the byte and the file."""
  try:
    return data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"no UTF-8: byte {data[error.start]:#04x} at place {error.start} of {name}") from None


def _item(media: str, value: Any, columns: dict[str, str], size: int, *, where: str) -> Item:
  found = [value] if isinstance(value, str) else value
  if not isinstance(found, (list, tuple)) or not all(isinstance(text, str) for text in found):
    return Item(media, columns=columns, problem=f"no caption: {where} has none, expected a text or a list of texts", size=size)
  captions = tuple(text for text in (" ".join(text.split()) for text in found) if text)
  return Item(media, captions, columns, "" if captions else f"a blank caption: in {where}", size)


def as_text(value: Any) -> str:
  """A column's value as text; other types become JSON."""
  return value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)


def _listed(source: str, folder: str, table: _Table, media_column: str, caption_column: str) -> Iterator[Item]:
  for column, flag in ((media_column, "--media_column"), (caption_column, "--caption_column")):
    if table.names is not None and column not in table.names:
      raise UserError(f"{flag}={column}: {source} has no such column, {nearest(column, table.names)}")
  count = 0
  for line, row in table.rows:
    count += 1
    where = f"line {line} of {source}"
    if isinstance(row, str):
      yield Item(where, problem=row)
      continue
    media = row.get(media_column)
    if not isinstance(media, str) or not media.strip():
      yield Item(where, problem=f"no {media_column!r}: expected a path or an address")
      continue
    media = media.strip()
    if "://" not in media and not media.startswith("/"):
      media = posixpath.join(folder, media)
    columns = {key: as_text(value) for key, value in row.items() if key not in (media_column, caption_column) and value is not None}
    yield _item(media, row.get(caption_column), columns, -1, where=where)
  if not count:
    raise UserError(f"--input={source} has no lines: expected one for each clip or image")


class _Table(NamedTuple):
  """The columns of a list (None if each line has its own), and per line its number with its values or what is wrong with it."""

  names: Sequence[str] | None
  rows: Iterator[tuple[int, dict[str, Any] | str]]


def _csv(file: IO[bytes], source: str) -> _Table:
  # A byte that is not UTF-8 only spoils its own line (as_unicode).
  reader = csv.reader(line.decode("utf-8-sig" if not n else "utf-8", "surrogateescape") for n, line in enumerate(file))
  header = next(reader, [])

  def rows() -> Iterator[tuple[int, dict[str, Any] | str]]:
    while True:
      try:
        row = next(reader)
      except StopIteration:
        return
      except csv.Error as error:
        yield reader.line_num, f"no line of a CSV file: {error}"
        continue
      if not row:
        continue
      if len(row) != len(header):
        yield reader.line_num, f"{len(row)} fields: expected the {len(header)} of the first line"
      else:
        yield reader.line_num, dict(zip(header, row, strict=True))

  return _Table(header, rows())


def _jsonl(file: IO[bytes], source: str) -> _Table:
  def rows() -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(file, 1):
      if not line.strip():
        continue
      try:
        row = json.loads(decoded(line, "it"))
      except (ValueError, RecursionError) as error:
        yield number, str(error) if isinstance(error, UserError) else f"no JSON: {error}"
        continue
      yield number, row if isinstance(row, dict) else f"{line.strip()[:40]!r}: expected an object with a path and a caption"

  return _Table(None, rows())


def _parquet(file: IO[bytes], source: str) -> _Table:
  import pyarrow
  from pyarrow import parquet

  try:
    table = parquet.ParquetFile(file)
  except pyarrow.ArrowInvalid as error:
    raise UserError(f"--input={source} is no Parquet file: {error}") from None

  def rows() -> Iterator[dict[str, Any]]:
    try:
      for batch in table.iter_batches(PARQUET_ROWS):
        yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
      raise UserError(f"--input={source} is damaged: {error}") from None

  return _Table(table.schema_arrow.names, enumerate(rows(), 1))


_READERS: dict[str, Callable[[IO[bytes], str], _Table]] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
