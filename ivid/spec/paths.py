"""What a path that a user named is, where a file was expected; and reading text without guessing its encoding or its lines."""

from __future__ import annotations

import errno
import os
import pathlib
import stat

from ivid.spec.errors import UserError

MISSING = "no such file"
KINDS = (
  (stat.S_ISDIR, "a folder"),
  (stat.S_ISFIFO, "a pipe"),
  (stat.S_ISSOCK, "a socket"),
  (stat.S_ISCHR, "a device"),
  (stat.S_ISBLK, "a device"),
)
# Marks at the beginning of a text; UTF-32's begins with UTF-16's.
MARKS = ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
SAMPLE = 512  # bytes in which zeros tell an encoding without a mark


def instead_of_file(path: str | os.PathLike[str]) -> str:
  """What is there in place of a regular file, such as `no such file` or `it is a folder`; empty for a regular file or a link to one."""
  try:
    mode = os.stat(path).st_mode
  except FileNotFoundError:
    return f"it is a link to {os.readlink(path)}, which is not there" if os.path.islink(path) else MISSING
  except NotADirectoryError:
    return MISSING
  except OSError as error:
    return "it is a link that leads back to itself" if error.errno == errno.ELOOP else (error.strerror or str(error))
  except ValueError:  # a zero byte
    return "no file can have that name"
  return "" if stat.S_ISREG(mode) else f"it is {next((name for test, name in KINDS if test(mode)), 'something else')}"


def not_missing(path: str | os.PathLike[str]) -> str:
  """What to add to an error that says `no such`: what is there, of what is there but is no file; else nothing."""
  found = instead_of_file(path)
  return "" if found in ("", MISSING) else f"; {path}: {found}"


def check_file(path: str | os.PathLike[str], what: str, expected: str = "") -> pathlib.Path:
  """The path of a regular file that is to be read.

  Args:
    what: the file is, for the error: `no WHAT at PATH: ...`.
    expected: what is said behind it; empty: nothing.

  Raises:
    UserError: there is none, or what there is instead.
  """
  found = instead_of_file(path)
  if found:
    raise UserError(f"no {what} at {path}: {found}" + (f"; expected {expected}" if expected else ""))
  return pathlib.Path(path)


def read_text(path: str | os.PathLike[str], what: str, expected: str = "") -> str:
  r"""The text of a UTF-8 file, with or without a byte order mark, its lines ended by \n alone. Arguments as of `check_file`.

  Raises:
    UserError: no regular file, or another encoding, by its name where the bytes tell it.
  """
  data = check_file(path, what, expected).read_bytes()
  other = _other_encoding(data)
  if other:
    raise UserError(f"{path} is not UTF-8 but {other}: expected UTF-8, such as `iconv -f {other} -t UTF-8` makes of it")
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8: {error.reason}, {data[error.start]:#04x}, at byte {error.start}") from None
  return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | os.PathLike[str], what: str, expected: str = "") -> list[str]:
  """The lines of a text as editors count them: unlike str.splitlines, not cut at U+2028, U+0085 and their like. As `read_text`."""
  return read_text(path, what, expected).split("\n")


def _other_encoding(data: bytes) -> str:
  marked = next((name for mark, name in MARKS if data.startswith(mark)), "")
  if marked:
    return marked
  head = data[:SAMPLE]
  for zeros, name in ((head[0::2], "UTF-16BE"), (head[1::2], "UTF-16LE")):
    if zeros and 2 * zeros.count(0) > len(zeros):  # most of its characters are of the first 256
      return name
  return ""
