"""The command line: what is listed, dispatched and printed when a user is wrong."""

import sys

import pytest
from absl import flags

from ivid import __main__ as command_line
from ivid import bin as binaries

COMMAND = '''"""Does as told.

More about it.
"""
from absl import app, flags

STEPS = flags.DEFINE_integer("fake_steps", 3, "How many.")


def main(argv):
  kind = argv[1] if len(argv) > 1 else ""
  if kind == "value":
    raise ValueError(f"steps={STEPS.value}:\\n expected more")
  if kind == "file":
    open("/nowhere/clip.mp4")
  if kind == "usage":
    raise app.UsageError("two names, please")
  if kind == "interrupt":
    raise KeyboardInterrupt
  if kind == "bug":
    raise RuntimeError("ours")
  print(argv[0], STEPS.value, *argv[1:])
'''


@pytest.fixture
def fake(tmp_path, monkeypatch):
  """A command named fakery, beside a module of ivid.bin that is none."""
  (tmp_path / "fakery.py").write_text(COMMAND)
  (tmp_path / "shared_flags.py").write_text('"""Not a command."""\n')
  monkeypatch.setattr(binaries, "__path__", [*binaries.__path__, str(tmp_path)])
  yield
  sys.modules.pop("ivid.bin.fakery", None)
  if "fake_steps" in flags.FLAGS:
    delattr(flags.FLAGS, "fake_steps")


def test_listing_names_each_command_once(fake, capsys):
  assert command_line.main(["--help"]) == 0
  out = capsys.readouterr().out
  assert "fakery" in out and "Does as told." in out and "More about it" not in out and "shared_flags" not in out
  assert command_line.main([]) == 0
  assert capsys.readouterr().out == out
  assert "ivid.bin.fakery" not in sys.modules


def test_flags_and_positional_arguments_arrive(fake, capsys):
  assert command_line.main(["fakery", "a", "--fake_steps=7", "b=1"]) == 0
  assert capsys.readouterr().out == "ivid fakery 7 a b=1\n"


def test_help_of_a_command_lists_its_flags(fake, capsys):
  assert command_line.main(["fakery", "--help"]) == 0
  out = capsys.readouterr().out
  assert "More about it." in out and "--fake_steps" in out


@pytest.mark.parametrize(
  "args, status, line",
  [
    (["fakry"], 2, "ivid: unknown command 'fakry': did you mean 'fakery'?"),
    (["fakery", "value"], 1, "ivid fakery: error: steps=3: expected more"),
    (["fakery", "file"], 1, "ivid fakery: error: /nowhere/clip.mp4: No such file or directory"),
    (["fakery", "usage"], 2, "ivid fakery: error: two names, please"),
    (["fakery", "interrupt"], 130, "ivid fakery: interrupted"),
    (["fakery", "--fake_step=1"], 2, "ivid fakery: error: Unknown command line flag 'fake_step'. Did you mean: fake_steps ?"),
    (["fakery", "--fake_steps=many"], 2, "ivid fakery: error: flag --fake_steps=many"),
  ],
)
def test_user_errors_are_one_line(fake, capsys, monkeypatch, args, status, line):
  monkeypatch.delenv(command_line.TRACEBACK, raising=False)
  assert command_line.main(args) == status
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith(line) and captured.err.count("\n") == 1


def test_bugs_and_wanted_tracebacks_stay(fake, monkeypatch):
  with pytest.raises(RuntimeError, match="ours"):
    command_line.main(["fakery", "bug"])
  monkeypatch.setenv(command_line.TRACEBACK, "1")
  with pytest.raises(ValueError, match="expected more"):
    command_line.main(["fakery", "value"])
