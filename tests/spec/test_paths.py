"""What a path is that should be a file, at every door; encodings and lines of texts."""

import os
import socket

import pytest

from ivid.config import load_run
from ivid.data.listing import items
from ivid.evaluate.prompts import read_prompts as read_evaluation_prompts
from ivid.media.clips import read_clip, read_metadata, timed_pictures
from ivid.media.plot import read_metrics
from ivid.sample.outputs import load_metadata
from ivid.sample.prompts import read_prompts
from ivid.spec.errors import UserError
from ivid.spec.paths import instead_of_file
from ivid.text.checkpoints.importing import open_checkpoint
from ivid.text.encoder import open_encoder
from ivid.text.tokenizer import SentencePieceTokenizer
from ivid.weights.cascades import open_cascade
from ivid.weights.tensors import read_header, read_weights


@pytest.fixture
def made(tmp_path):
  """made(name) -> path of what the name says."""

  def make(name, suffix=""):
    path = tmp_path / f"it{suffix}"
    if name == "folder":
      path.mkdir()
    elif name == "pipe":
      os.mkfifo(path)
    elif name == "loop":
      path.symlink_to(path)
    elif name == "dangling":
      path.symlink_to(tmp_path / "nowhere")
    elif name == "socket":
      with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
    elif name == "device":
      path.symlink_to("/dev/zero")
    elif name == "file":
      path.write_text("x")
    elif name == "link":
      (tmp_path / "other").write_text("x")
      path.symlink_to(tmp_path / "other")
    return path

  return make


@pytest.mark.parametrize(
  ("name", "said"),
  [
    ("file", ""),
    ("link", ""),
    ("nothing", "no such file"),
    ("folder", "it is a folder"),
    ("pipe", "it is a pipe"),
    ("socket", "it is a socket"),
    ("device", "it is a device"),
    ("loop", "it is a link that leads back to itself"),
    ("dangling", "it is a link to .*nowhere, which is not there"),
  ],
)
def test_what_there_is_instead_of_a_file(made, name, said):
  import re

  assert re.fullmatch(said, instead_of_file(made(name)))


def test_names_that_no_file_can_have(tmp_path):
  (tmp_path / "file").write_text("")
  assert instead_of_file("a\0b") == "no file can have that name"
  assert instead_of_file(tmp_path / "file" / "inner") == "no such file"
  assert instead_of_file(tmp_path / ("x" * 300)) == "File name too long"


DOORS = {
  "--input of sample": (".mp4", lambda path: list(timed_pictures(path))),
  "a clip": (".mp4", read_clip),
  "a clip's metadata": (".mp4", read_metadata),
  "--from_metadata": (".json", load_metadata),
  "--prompts_file of sample": (".txt", read_prompts),
  "--prompts_file of evaluate": (".txt", read_evaluation_prompts),
  "metrics": (".jsonl", read_metrics),
  "--config": (".py", lambda path: load_run(f"{path}:base")),
  "--input of prepare": (".csv", lambda path: list(items(str(path)))),
  "--tokenizer": (".model", lambda path: SentencePieceTokenizer(str(path))),
  "--from of import-t5": (".safetensors", open_checkpoint),
  "weights": (".safetensors", read_weights),
  "the header of weights": (".safetensors", read_header),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["pipe", "loop", "folder"])
def test_every_door_says_what_it_is(made, door, name):
  suffix, opened = DOORS[door]
  if name == "folder" and door in ("--input of prepare", "--from of import-t5"):
    pytest.skip("takes folders")
  with pytest.raises(UserError, match={"pipe": "it is a pipe", "loop": "leads back to itself", "folder": "it is a folder"}[name]) as error:
    opened(made(name, suffix))
  assert "no such file" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("opened", "inner"), [(open_cascade, "cascade.json"), (open_encoder, "spec.json")])
def test_files_of_a_folder(tmp_path, opened, inner):
  os.mkfifo(tmp_path / inner)
  with pytest.raises(UserError, match=f"{inner}: it is a pipe"):
    opened(tmp_path)


@pytest.mark.parametrize("read", [read_prompts, read_evaluation_prompts])
@pytest.mark.parametrize(
  ("encoding", "said"),
  [
    ("utf-16", "mine.txt is not UTF-8 but UTF-16: expected UTF-8, such as `iconv -f UTF-16 -t UTF-8`"),
    ("utf-16-le", "mine.txt is not UTF-8 but UTF-16LE"),
    ("utf-16-be", "mine.txt is not UTF-8 but UTF-16BE"),
    ("utf-32", "mine.txt is not UTF-8 but UTF-32"),
    ("latin-1", "mine.txt is not UTF-8: invalid continuation byte, 0xe9, at byte 11"),
  ],
)
def test_other_encodings_are_named(tmp_path, read, encoding, said):
  path = tmp_path / "mine.txt"
  path.write_bytes("a small café\na large circle\n".encode(encoding))
  with pytest.raises(UserError) as error:
    read(path)
  assert said in str(error.value)


def test_lines_are_what_editors_count(tmp_path):
  path = tmp_path / "prompts.txt"
  path.write_bytes("\ufeffa red\u2028ball\r\n\na green\x85cube\ra blue\x0cstar\n".encode())
  assert read_prompts(path) == ["a red\u2028ball", "a green\x85cube", "a blue\x0cstar"]
  path.write_text("a small red circle moves left on a black background\n\na\u2028b\n")
  with pytest.raises(UserError, match="prompts.txt, line 3: "):
    read_evaluation_prompts(path)
