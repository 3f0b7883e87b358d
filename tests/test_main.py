"""The command line: what is listed, dispatched and printed when a user is wrong."""

import subprocess
import sys
import types

import pytest

from ivid import __main__ as command_line
from ivid import bin as binaries

COMMAND = '''"""Does as told.

More about it.
"""
import errno
import pathlib
import warnings

from absl import flags

import ivid
from ivid.bin.flags import parse_flags
from ivid.spec.errors import UsageError, UserError


def define_flags(values):
  flags.DEFINE_integer("steps", 3, "How many.", flag_values=values)


def main(argv):
  kind = argv[1] if len(argv) > 1 else ""
  if kind == "value":
    raise UserError("steps=3:\\n expected more")
  if kind == "file":
    open("/nowhere/clip.mp4")
  if kind == "usage":
    raise UsageError("two names, please")
  if kind == "warn":
    warnings.warn("a.ts breaks off after 2 s", stacklevel=1)
    warnings.warn("of a library", RuntimeWarning, stacklevel=1)
  if kind == "interrupt":
    raise KeyboardInterrupt
  if kind == "bug":
    raise RuntimeError("ours")
  if kind == "numpy":
    raise ValueError("operands could not be broadcast together")
  if kind == "full":
    raise OSError(errno.ENOSPC, "No space left on device")
  if kind == "ours":
    open(pathlib.Path(ivid.__file__).parent / "nowhere.bin")
  if kind == "flag":
    parse_flags(argv, define_flags, words=True)
  print(argv)
  return 3 if kind == "three" else None
'''


@pytest.fixture
def fake(tmp_path, monkeypatch):
  """A command named fakery, beside a module of ivid.bin that is none."""
  (tmp_path / "fakery.py").write_text(COMMAND)
  (tmp_path / "shared_flags.py").write_text('"""Not a command."""\n')
  monkeypatch.setattr(binaries, "__path__", [*binaries.__path__, str(tmp_path)])
  yield
  sys.modules.pop("ivid.bin.fakery", None)


def test_listing_names_each_command_once(fake, capsys):
  assert command_line.main(["--help"]) == 0
  out = capsys.readouterr().out
  assert "fakery" in out and "Does as told." in out and "More about it" not in out and "shared_flags" not in out
  assert command_line.main([]) == 0
  assert capsys.readouterr().out == out
  assert "ivid.bin.fakery" not in sys.modules


def test_arguments_arrive_and_status_returns(fake, capsys):
  assert command_line.main(["fakery", "a", "--steps=7", "b=1", "help"]) == 0
  assert capsys.readouterr().out == "['ivid fakery', 'a', '--steps=7', 'b=1', 'help']\n"
  assert command_line.main(["fakery", "three"]) == 3


def test_a_warning_of_ours_is_one_line_and_others_stay_as_they_are(fake, capsys):
  with pytest.warns(RuntimeWarning, match="^of a library$") as others:
    assert command_line.main(["fakery", "warn"]) == 0
  assert len(others) == 1 and capsys.readouterr().err == "ivid fakery: warning: a.ts breaks off after 2 s\n"


def test_help_of_a_command_lists_its_flags(fake, capsys):
  assert command_line.main(["fakery", "--help"]) == 0
  out = capsys.readouterr().out
  assert "More about it." in out and "--steps" in out and "How many." in out


@pytest.mark.parametrize(
  "args, status, line",
  [
    (["fakry"], 2, "ivid: unknown command 'fakry': did you mean 'fakery'?"),
    (["fakery", "value"], 1, "ivid fakery: error: steps=3: expected more"),
    (["fakery", "file"], 1, "ivid fakery: error: /nowhere/clip.mp4: No such file or directory"),
    (["fakery", "full"], 1, "ivid fakery: error: [Errno 28] No space left on device"),
    (["fakery", "usage"], 2, "ivid fakery: error: two names, please"),
    (["fakery", "interrupt"], 130, "ivid fakery: interrupted"),
    (["fakery", "flag", "--step=1"], 2, "ivid fakery: error: Unknown command line flag 'step'. Did you mean: steps ?"),
  ],
)
def test_user_errors_are_one_line(fake, capsys, monkeypatch, args, status, line):
  monkeypatch.delenv(command_line.TRACEBACK, raising=False)
  assert command_line.main(args) == status
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith(line) and captured.err.count("\n") == 1


def test_bugs_and_wanted_tracebacks_stay(fake, monkeypatch):
  for kind, error in (("bug", RuntimeError), ("numpy", ValueError), ("ours", FileNotFoundError)):
    with pytest.raises(error):
      command_line.main(["fakery", kind])
  monkeypatch.setenv(command_line.TRACEBACK, "1")
  with pytest.raises(ValueError, match="expected more"):
    command_line.main(["fakery", "value"])


def test_starts_again_with_settings_of_malloc_once(monkeypatch):
  started = []
  monkeypatch.setattr(command_line.os, "execv", lambda program, args: started.append((program, args)))
  monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "ivid", "train", "--workdir=w"])
  monkeypatch.setattr(sys, "argv", ["ivid", "train", "--workdir=w"])
  monkeypatch.setattr(sys, "platform", "linux")
  monkeypatch.setattr(command_line.platform, "libc_ver", lambda: ("glibc", "2.36"))
  monkeypatch.setenv(command_line.TUNABLES, "")  # so that the end of the test takes away what is set here
  monkeypatch.delenv(command_line.TUNABLES)
  monkeypatch.setenv(command_line.PLATFORMS, "cpu")
  command_line.tune_malloc()
  command_line.tune_malloc()
  assert started == [(sys.executable, [sys.executable, "-m", "ivid", "train", "--workdir=w"])]
  assert command_line.os.environ[command_line.TUNABLES] == command_line.KEEP_MEMORY
  monkeypatch.setenv(command_line.TUNABLES, "glibc.malloc.check=1")
  command_line.tune_malloc()
  assert len(started) == 1


HOSTS = [
  ("train", "", "nvidia0", "HUGE_PAGES"),
  ("train", "cpu", "accel0", "KEEP_MEMORY"),
  ("evaluate", "", "null", "KEEP_MEMORY"),
  ("sample", "cpu", "null", "HUGE_PAGES"),
  (None, "", "null", "HUGE_PAGES"),
]


@pytest.mark.parametrize(("name", "platforms", "device", "want"), HOSTS)
def test_only_long_commands_on_cpus_keep_memory(name, platforms, device, want, monkeypatch, tmp_path):
  (tmp_path / device).touch()
  monkeypatch.setattr(sys, "argv", ["ivid", *filter(None, [name])])
  monkeypatch.setattr(command_line.os, "execv", lambda *_: None)
  monkeypatch.setattr(command_line.pathlib, "Path", lambda _: tmp_path)
  monkeypatch.setattr(sys, "platform", "linux")
  monkeypatch.setattr(command_line.platform, "libc_ver", lambda: ("glibc", "2.36"))
  monkeypatch.setenv(command_line.PLATFORMS, platforms)
  monkeypatch.setenv(command_line.TUNABLES, "")
  monkeypatch.delenv(command_line.TUNABLES)
  command_line.tune_malloc()
  assert command_line.os.environ[command_line.TUNABLES] == getattr(command_line, want)


def test_a_reader_that_has_seen_enough_ends_it_quietly():
  with subprocess.Popen([sys.executable, "-m", "ivid", "sample", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
    command.stdout.close()
    said = command.stderr.read()
  assert (command.returncode, said) == (command_line.EXIT_PIPE, b"")


def test_a_platform_that_is_not_there_is_one_line(fake, capsys, monkeypatch):
  """What JAX raises of it is a RuntimeError or an AssertionError, by the platform."""
  for wrong in (RuntimeError("Unable to initialize backend 'rocm': no such\nthing"), AssertionError()):

    def devices(wrong=wrong):
      raise wrong

    monkeypatch.setenv(command_line.PLATFORMS, "rocm")
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(devices=devices))
    assert command_line.main(["fakery", "bug"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("ivid fakery: error: JAX_PLATFORMS=rocm: JAX finds no such devices") and line.count("\n") == 1
  monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(devices=lambda: ["cpu"]))
  with pytest.raises(RuntimeError):
    command_line.main(["fakery", "bug"])
