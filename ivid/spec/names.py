"""Names that files and flags give and that become parts of paths."""

from __future__ import annotations

from ivid.spec.errors import UserError, shown

LONGEST_NAME = 100  # bytes: a file's name may have 255, in which a prompt's slug and a number stand too
LONGEST_FILE = 255  # bytes of a whole file name, on all common file systems


def check_name(name: str, said: str, *, longest: int = LONGEST_NAME) -> str:
  """The name, if it may be a part of a path: a file or folder of that name lies in the folder that it is looked for in.

  Args:
    said: what the name is, for the error, such as "stage".

  Raises:
    UserError: it is empty or long, begins with a dot (as . and .. do, and what is hidden), or has a slash or what is not printed in it.
  """
  if not name or name.startswith(".") or "/" in name or "\\" in name or not name.isprintable():
    raise UserError(f"{said} {shown(name)}: expected a name without slashes that does not begin with a dot")
  if len(name.encode("utf-8")) > longest:
    raise UserError(f"{said} {shown(name)}: {len(name.encode('utf-8'))} bytes, expected a name of at most {longest}")
  return name


def check_path(path: str, said: str) -> str:
  """The relative path, if each of its parts is a name: it leads to what lies in the folder that it begins in. Raises as `check_name`."""
  for part in path.split("/"):
    check_name(part, f"{said} {shown(path)}: part" if part != path else said, longest=LONGEST_FILE)
  return path
