"""Buckets: what is refused, files that are uploaded whole, and copies; on fsspec's memory (tests/runs/test_bucket.py has a server)."""

import json
import sys

import fsspec
import pytest

from ivid.media import copies, places
from ivid.media.copies import local_copy
from ivid.media.files import whole_file, write_whole
from ivid.spec.errors import UserError


@pytest.fixture
def bucket():
  system = fsspec.filesystem("memory")
  yield system
  if system.exists("/places"):
    system.rm("/places", recursive=True)


def test_a_file_is_uploaded_when_it_is_whole(bucket):
  address = "memory://places/a/b.txt"
  with pytest.raises(RuntimeError, match="stop"), whole_file(address) as path:
    path.write_text("half")
    raise RuntimeError("stop")
  assert not bucket.exists("/places/a/b.txt")
  with whole_file(address) as path:
    path.write_text("whole")
    assert not bucket.exists("/places/a/b.txt")
  write_whole("memory://places/c.txt", "é")
  assert bucket.cat_file("/places/a/b.txt") == b"whole" and bucket.cat_file("/places/c.txt").decode() == "é"


def test_a_copy_is_made_anew_when_something_changes(bucket, tmp_path, capsys):
  for name, text in (("cascade.json", "{}"), ("base/weights", "w")):
    write_whole(f"memory://places/x/{name}", text)
  copy = local_copy("memory://places/x/", "--cascade", cache=tmp_path)
  assert {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} == {"cascade.json", "base/weights"}
  assert "copying memory://places/x (2 files" in capsys.readouterr().err
  assert local_copy("memory://places/x", "--cascade", cache=tmp_path) == copy and not capsys.readouterr().err
  write_whole("memory://places/x/base/weights", "other")
  other = local_copy("memory://places/x", "--cascade", cache=tmp_path)
  assert other != copy and (other / "base/weights").read_text() == "other" and (copy / "base/weights").read_text() == "w"
  assert local_copy(tmp_path, "--cascade", cache=tmp_path) == tmp_path


def test_a_folder_is_uploaded_with_what_completes_it_last(tmp_path, monkeypatch):
  for name in ("b", "a", "z/c"):
    write_whole(tmp_path / name, name)
  order = []
  monkeypatch.setattr(places, "upload", lambda file, address: order.append(address))
  places.upload_folder(tmp_path, "gs://bucket/x", last="a")
  assert order == ["gs://bucket/x/b", "gs://bucket/x/z/c", "gs://bucket/x/a"]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: places.open_folder("s3://b/x", "--workdir"), "--workdir=s3://b/x: expected a path, or gs://BUCKET/FOLDER; another bucket"),
    (lambda: places.open_folder("gs://", "--workdir"), "--workdir=gs://: expected a path, or gs://BUCKET/FOLDER"),
    (lambda: places.local_path("gs://b/x", "--out"), "--out=gs://b/x: expected a path, such as /gs/b/x, where the bucket is mounted"),
    (lambda: places.file_system("nothing://x"), "nothing://x: Protocol not known: nothing"),
    (lambda: local_copy("memory://nowhere", "--cascade"), "--cascade=memory://nowhere: there is nothing, or nothing"),
    (lambda: write_whole("nothing://x/y", "z"), "nothing://x/y: Protocol not known"),
  ],
)
def test_bad_input_is_one_line(call, message):
  with pytest.raises(UserError) as caught:
    call()
  assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_without_the_package(monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  with pytest.raises(UserError, match=r"gs://b/x: .*pip install 'ivid\[cloud\]' brings gs://"):
    places.file_system("gs://b/x")
  with pytest.raises(UserError, match=r"^--workdir=gs://b/x: .*pip install 'ivid\[cloud\]'"):
    places.open_folder("gs://b/x", "--workdir")


def test_a_disk_without_room(bucket, tmp_path, monkeypatch):
  write_whole("memory://places/large/file", json.dumps(list(range(100))))
  monkeypatch.setattr(copies.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
  with pytest.raises(UserError, match="has 0.0 GB, and .* room for 0.0: expected a bucket that is mounted"):
    local_copy("memory://places/large", "data.dir", cache=tmp_path)
  assert not [path for path in tmp_path.rglob("*") if path.name == "file"]
