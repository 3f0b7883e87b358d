"""Writing: whole or not at all, what is no regular file in place, and what the dead left is removed while the living write on."""

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from ivid.media import scratch
from ivid.media.files import append_line, updated_folder, whole_file, whole_folder, write_whole
from ivid.spec.errors import UserError


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
  monkeypatch.setattr(scratch, "_swept", set())


def names(folder):
  return sorted(os.listdir(folder))


def test_a_file_is_whole_or_as_it_was(tmp_path):
  path = tmp_path / "new" / "a.json"
  write_whole(path, "old")
  with pytest.raises(KeyError), whole_file(path) as temporary:
    assert temporary.name == "a.json" and temporary.parent.parent == path.parent
    temporary.write_text("half")
    raise KeyError
  assert path.read_text() == "old" and names(path.parent) == ["a.json"]
  with pytest.raises(FileNotFoundError), whole_file(path):
    open(tmp_path / "read_meanwhile")
  with pytest.raises(UserError, match=f"^cannot write {path.parent}: Is a directory$"):
    write_whole(path.parent, "x")
  with pytest.raises(UserError, match="^cannot write .*a.json/b: "):
    write_whole(path / "b", "x")


def test_a_full_device_stays_a_device():
  for path, said in (("/dev/full", "No space left on device"), ("/dev/null", None)):
    before = os.stat(path)
    with contextlib.nullcontext() if said is None else pytest.raises(UserError, match=f"^cannot write {path}: {said}$"):
      write_whole(path, "{}")
    after = os.stat(path)
    assert (before.st_mode, before.st_ino, before.st_rdev) == (after.st_mode, after.st_ino, after.st_rdev)


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
  (tmp_path / "far").mkdir()
  for old in ("old", None):
    target, link = tmp_path / "far" / f"{old}.json", tmp_path / f"{old}.json"
    link.symlink_to(f"far/{old}.json")
    if old:
      target.write_text(old)
    write_whole(link, "new")
    assert link.is_symlink() and target.read_text() == "new" and not target.is_symlink()
  loop = tmp_path / "loop"
  loop.symlink_to(loop)
  with pytest.raises(UserError, match="^cannot write .*loop: Too many levels of symbolic links$"):
    write_whole(loop, "x")


def test_pipes(tmp_path):
  pipe = tmp_path / "pipe"
  os.mkfifo(pipe)
  with pytest.raises(UserError, match="^cannot write .*pipe: "):  # that nobody reads
    write_whole(pipe, "x")
  found = []
  reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
  reader.start()
  while reader.is_alive() and not found:
    with contextlib.suppress(UserError):  # until the reader has opened it
      write_whole(pipe, b"y" * 300_000)
      break
  reader.join(30)
  assert found == [b"y" * 300_000] and pipe.is_fifo()


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("to", ["file", "pipe"])
def test_standard_output(tmp_path, path, to):
  code = f"from ivid.media.files import write_whole\nprint('before')\nwrite_whole({path!r}, 'it')\nprint('after')"
  out = tmp_path / "out.txt"
  with open(out, "w") if to == "file" else contextlib.nullcontext(subprocess.PIPE) as stdout:
    run = subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60)
  assert run.returncode == 0, run.stderr
  assert (out.read_text() if to == "file" else run.stdout) == "before\nitafter\n"


def test_lines_are_added_whole(tmp_path):
  path = tmp_path / "metrics.jsonl"
  append_line(path, json.dumps({"step": 1}))
  with open(path, "a") as file:
    file.write('{"step": 2, "lo')  # of a process that was killed
  append_line(path, json.dumps({"step": 3}))
  assert path.read_text() == '{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n'
  with pytest.raises(UserError, match="^cannot write /dev/full: No space left on device$"):
    append_line("/dev/full", "x")


def made_folder(path, **files):
  path.mkdir(parents=True)
  for name, text in files.items():
    (path / name).write_text(text)
  return path


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_folder_is_exchanged(tmp_path, monkeypatch, exchanged):
  if not exchanged:
    monkeypatch.setattr(scratch, "_exchange", lambda a, b: False)
  target = made_folder(tmp_path / "it", a="old", b="kept")
  target.chmod(0o750)
  with whole_folder(target, keep=True) as fresh:
    write_whole(fresh / "a", "new")
    assert (target / "a").read_text() == "old"
  assert (target / "a").read_text() == "new" and (target / "b").read_text() == "kept"
  assert target.stat().st_mode & 0o777 == 0o750 and names(tmp_path) == ["it"]
  with whole_folder(target) as fresh:
    (fresh / "c").write_text("alone")
  assert names(target) == ["c"] and names(tmp_path) == ["it"]


def test_a_death_between_two_renames_is_mended(tmp_path, monkeypatch):
  """Where names cannot be exchanged: whoever writes there next gives the old folder its name back."""
  target, rename = made_folder(tmp_path / "it", a="old"), os.rename

  def dies(a, b):
    if ".writing-" in str(a):
      raise KeyboardInterrupt
    rename(a, b)

  with monkeypatch.context() as patch:
    patch.setattr(scratch, "_exchange", lambda a, b: False)
    patch.setattr(scratch, "remove", lambda path: None)
    patch.setattr(os, "rename", dies)
    with pytest.raises(KeyboardInterrupt), whole_folder(target) as fresh:
      (fresh / "a").write_text("new")
  assert not target.exists() and len(names(tmp_path)) == 2
  scratch._swept.clear()
  write_whole(tmp_path / "other", "")
  assert names(tmp_path) == ["it", "other"] and (target / "a").read_text() == "old"


def test_a_folder_that_a_process_stands_in_stays(tmp_path, monkeypatch):
  target = made_folder(tmp_path / "it", a="old")
  monkeypatch.chdir(target)
  with updated_folder(".") as folder:
    write_whole(folder / "a", "new")
  assert os.path.samefile(".", target) and (target / "a").read_text() == "new" and names(target) == ["a"]


def write_slowly(folder, writing, go_on):
  with whole_file(folder / "slow.txt") as path:
    path.write_text("slow")
    writing.set()
    go_on.wait(60)


def test_what_the_dead_left_goes_and_what_the_living_write_stays(tmp_path, monkeypatch):
  context = multiprocessing.get_context("spawn")
  processes = []
  for _ in range(2):
    writing, go_on = context.Event(), context.Event()
    process = context.Process(target=write_slowly, args=(tmp_path, writing, go_on))
    process.start()
    assert writing.wait(60)
    processes.append((process, go_on))
  (dead, _), (alive, go_on) = processes
  dead.kill()
  dead.join(60)
  for name, age in (("elsewhere", 60), ("long-ago", 2 * scratch.DEAD_SECONDS)):
    other = made_folder(tmp_path / f"{scratch.SCRATCH}{name}-1", part="x")
    for path in (other / "part", other):
      os.utime(path, (time.time() - age,) * 2)
  assert len(names(tmp_path)) == 4
  write_whole(tmp_path / "mine.txt", "mine")
  left = names(tmp_path)
  assert len(left) == 3 and ".writing-elsewhere-1" in left and "mine.txt" in left
  go_on.set()
  alive.join(60)
  assert (tmp_path / "slow.txt").read_text() == "slow" and names(tmp_path) == [".writing-elsewhere-1", "mine.txt", "slow.txt"]
