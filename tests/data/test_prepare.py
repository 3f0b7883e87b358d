"""Folders and lists as data sets: what stays, what is left out, and the same bytes whoever prepares them."""

import collections
import io
import json
import os
import pathlib
import shutil
import socket

import av
import numpy as np
import pyarrow
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from pyarrow import parquet

from ivid.data import shards
from ivid.data.examine import examine
from ivid.data.listing import items
from ivid.data.plan import make_plan
from ivid.data.prepare import prepare
from ivid.data.prepared import find_folder
from ivid.data.records import index_name
from ivid.media import records
from ivid.media.clips import write_clip
from ivid.media.decode import pictures
from ivid.runs.preparing import prepare_files
from ivid.spec.errors import UserError
from ivid.spec.prepare import PrepareSpec
from tests.media.test_decode import encode

GOOD = 7


def clip(level, frames=12, height=24, width=32):
  shown = np.full((frames, height, width, 3), level, np.uint8)
  shown[:, :, : width // 2] //= 2
  return shown


def contents(folder):
  return {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir()) if not path.name.startswith(".")}


def index(folder, split):
  return parquet.read_table(pathlib.Path(folder, f"index-{split}.parquet")).to_pylist()


def rejections(folder):
  return {pathlib.Path(row["file"]).name: row["reason"] for row in map(json.loads, open(pathlib.Path(folder, "rejected.jsonl")))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Five clips, two images, and ten files of which none can be used."""
  root = tmp_path_factory.mktemp("files")
  (root / "more").mkdir()
  for n in range(5):
    name = root / ("more" if n == 3 else "") / f"clip{n}"
    write_clip(name.with_suffix(".mp4"), clip(40 * n + 40), 6)
    name.with_suffix(".txt").write_text(f"\ufeffclip number {n}\n" if n == 1 else f"clip number {n}\n", encoding="utf-8")
  for n in range(2):
    Image.fromarray(clip(80 + n, 1)[0]).save(root / f"image{n}.png")
    (root / f"image{n}.json").write_text(json.dumps({"captions": [f"image {n}", f"picture {n}"], "tone": n}))
  whole = (root / "clip2.mp4").read_bytes()
  broken = dict(empty=b"", short=whole[: len(whole) // 2], words=b"no clip at all", same=whole)
  for name, data in broken.items():
    (root / f"{name}.mp4").write_bytes(data)
    (root / f"{name}.txt").write_text(name)
  (root / "said_nothing.mp4").write_bytes(whole + b"1")
  (root / "blank.mp4").write_bytes(whole + b"2")
  (root / "blank.txt").write_text(" \n")
  (root / "latin.mp4").write_bytes(whole + b"3")
  (root / "latin.txt").write_bytes("café".encode("latin-1"))
  (root / "alone.txt").write_text("no clip has this name")
  (root / "table.xlsx").write_bytes(b"x")
  (root / "._clip0.mp4").write_bytes(b"of a Mac")
  return root


LEFT_OUT = {
  "empty.mp4": "it is empty",
  "short.mp4": "it holds no pictures",
  "words.mp4": "it is no clip that can be read",
  "same.mp4": "the same file as another: ",
  "said_nothing.mp4": "no caption: expected said_nothing.txt or .json beside it",
  "blank.mp4": "a blank caption: ",
  "latin.mp4": "no UTF-8: byte 0xe9 at place 3 of ",
  "alone.txt": "a caption alone: ",
  "table.xlsx": "neither clip nor image: a .xlsx file",
}


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
  out = tmp_path_factory.mktemp("out")
  return prepare(PrepareSpec(input=str(folder), shard_items=4), str(out), workers=1)


def test_what_is_kept_and_what_is_left_out(folder, prepared):
  where, summary = prepared
  assert sum(summary.clips.values()) == 5 and sum(summary.images.values()) == 2 and summary.clips.keys() == {"train", "validation"}
  found = rejections(where)
  assert found.keys() == LEFT_OUT.keys() and all(found[name].startswith(reason) for name, reason in LEFT_OUT.items())
  assert summary.rejected["it is no clip that can be read"] == 1 and sum(summary.rejected.values()) == len(LEFT_OUT)
  assert f"{len(LEFT_OUT)} left out (rejected.jsonl)" in str(summary) and "1 x it is no clip" in str(summary)


def test_records_as_tfds_and_the_index_have_them(folder, prepared):
  where, _ = prepared
  builder = tfds.builder_from_directory(where)
  seen = {}
  for split in ("train", "validation"):
    rows = index(where, split)
    source = builder.as_data_source(split=split)
    assert len(source) == len(rows)
    for row, record in zip(rows, source, strict=True):
      path = pathlib.Path(record["source"].decode())
      assert record["media"] == path.read_bytes() and row["source"] == str(path)
      assert (record["frames"], record["height"], record["width"]) == (row["frames"], row["height"], row["width"])
      seen[path.name] = record
  assert len(seen) == GOOD
  one, image = seen["clip1.mp4"], seen["image1.png"]
  assert one["captions"] == [b"clip number 1"] and one["fps"] == 6 and one["seconds"] == 2 and one["frames"] == 12
  assert image["captions"] == [b"image 1", b"picture 1"] and image["columns"] == {"tone": b"1"}
  assert (image["frames"], image["seconds"]) == (1, 0)


def test_the_same_bytes_whoever_prepares_them(folder, prepared, tmp_path):
  """A pool, two hosts in the wrong order, and a job that was cut short in every shard."""
  where, _ = prepared
  want = contents(where)
  spec = PrepareSpec(input=str(folder), shard_items=4)
  pool, _ = prepare(spec, str(tmp_path / "pool"), workers=2)
  later, none = prepare(spec, str(tmp_path / "hosts"), process=(1, 2), workers=1)
  assert none is None
  hosts, both = prepare(spec, str(tmp_path / "hosts"), process=(0, 2), workers=1)
  plan = make_plan(spec, str(tmp_path / "cut"))
  shards.prepare_shard(plan, 2)
  pathlib.Path(plan.folder, shards.PARTS, "000000.array_record").write_bytes(b"half a shard, without what tells of it")
  cut, _ = prepare(spec, str(tmp_path / "cut"), workers=1)
  for other in (pool, hosts, cut):
    assert contents(other) == want
  assert both == prepared[1] and not any(name.startswith("parts") for name in os.listdir(where))


def test_the_same_command_again_does_nothing_and_another_is_refused(folder, prepared, tmp_path):
  mine = tmp_path / "mine"
  shutil.copytree(folder, mine)
  spec = PrepareSpec(input=str(mine), shard_items=4)
  where, summary = prepare(spec, str(tmp_path), workers=1)
  times = {path: path.stat().st_mtime_ns for path in pathlib.Path(where).glob("*.array_record*")}
  assert prepare(spec, str(tmp_path), workers=1) == (where, summary)
  assert {path: path.stat().st_mtime_ns for path in times} == times
  with pytest.raises(UserError, match="--min_seconds was 0.0, now 1.5; expected another --out or --name, or --overwrite"):
    prepare(PrepareSpec(input=str(mine), shard_items=4, min_seconds=1.5), str(tmp_path))
  (mine / "clip0.txt").write_text("said otherwise")
  with pytest.raises(UserError, match=r"item \d+ was .*clip0.mp4, 'clip number 0', .* now .*clip0.mp4, 'said otherwise'"):
    prepare(spec, str(tmp_path))
  assert {path: path.stat().st_mtime_ns for path in times} == times
  prepare(spec, str(tmp_path), workers=1, overwrite=True)
  captions = [
    row["captions"] for name in ("train", "validation") for row in parquet.read_table(f"{where}/index-{name}.parquet").to_pylist()
  ]
  assert ["said otherwise"] in captions and ["clip number 0"] not in captions


def test_nasty_files_never_end_the_job(tmp_path):
  """What decoders, names and captions do that nobody expects is a line of the rejected, and a good file beside is kept."""
  root = tmp_path / "in"
  root.mkdir()
  frames = [np.full((24, 32, 3), 30 * n, np.uint8) for n in range(4)]
  titled = encode(frames, codec="mpeg4", form="avi", rate=25).replace(b"ISFT", b"INAM", 1)
  place = titled.index(b"INAM") + 8
  (root / "latin_title.avi").write_bytes(titled[:place] + b"Caf\xe9" + titled[place + 4 :])
  gif, jpeg = io.BytesIO(), io.BytesIO()
  pictures_ = [Image.fromarray(frame) for frame in frames]
  pictures_[0].save(gif, format="GIF", save_all=True, append_images=pictures_[1:])
  (root / "short.gif").write_bytes(gif.getvalue()[: len(gif.getvalue()) // 2])
  pictures_[1].save(jpeg, format="MPO", save_all=True, append_images=pictures_[2:3])
  (root / "phone.jpg").write_bytes(jpeg.getvalue())
  (root / "bad.tif").write_bytes(b"II*\0\x08\0\0\0\0\0\0\0\0\0")
  for name in ("latin_title", "short", "phone", "bad"):
    (root / f"{name}.txt").write_text(name)
  good = (root / "latin_title.avi").read_bytes()
  captions = dict(surrogate='{"caption": "\\ud800"}', column='{"caption": "a", "b": "\\ud800"}', number="7", deep="[" * 100_000)
  for name, text in captions.items():
    (root / f"{name}.avi").write_bytes(good + name.encode())
    (root / f"{name}.json").write_text(text)
  (root / "nowhere.avi").write_bytes(good + b"0")
  (root / "nowhere.txt").symlink_to(root / "gone")
  (root / os.fsdecode(b"caf\xe9.avi")).write_bytes(good + b"1")
  (root / os.fsdecode(b"caf\xe9.txt")).write_text("a")
  where, summary = prepare(PrepareSpec(input=str(root), num_test=0), str(tmp_path / "out"), workers=1)
  assert [(row["source"].rpartition("/")[2], row["frames"]) for row in index(where, "train")] == [("latin_title.avi", 4), ("phone.jpg", 1)]
  assert len(rejections(where)) == 8 and sum(summary.rejected.values()) == 8


def test_cut_files_and_playlists_are_listed_with_their_reasons(tmp_path):
  """Files that do not say how long they are, such as an interrupted download of a stream: what is there is not taken for the whole."""
  source = tmp_path / "in"
  source.mkdir()
  frames = [np.random.default_rng(n).integers(0, 200, (48, 64, 3)).astype(np.uint8) for n in range(12)]
  whole = {"stream.ts": encode(frames, form="mpegts"), "live.mkv": encode(frames, form="matroska", container_options={"live": "1"})}
  write_clip(tmp_path / "a.gif", np.stack(frames), 10)
  whole["a.gif"] = (tmp_path / "a.gif").read_bytes()
  for name, data in whole.items():
    (source / name).write_bytes(data)
    (source / f"cut-{name}").write_bytes(data[: int(0.8 * len(data))])
  (source / "list.mp4").write_text("ffconcat version 1.0\nfile stream.ts\n")
  for path in list(source.iterdir()):
    path.with_suffix(".txt").write_text(path.name)
  folder, summary = prepare(PrepareSpec(input=str(source)), str(tmp_path / "out"), workers=1)
  reasons = rejections(folder)
  assert sorted(reasons) == ["cut-a.gif", "cut-live.mkv", "cut-stream.ts", "list.mp4"]
  assert all("it breaks off after" in reason for name, reason in reasons.items() if name != "list.mp4")
  assert "names other files" in reasons["list.mp4"]


def test_an_unknown_address_is_one_line_of_the_rejected(tmp_path):
  write_clip(tmp_path / "a.mp4", clip(50), 6)
  (tmp_path / "list.csv").write_text("path,caption\na.mp4,a\ns3q://b/c.mp4,b\n")
  where, summary = prepare(PrepareSpec(input=str(tmp_path / "list.csv")), str(tmp_path / "out"), workers=1)
  assert summary.clips == {"train": 1} and summary.rejected == {"an unknown kind of address": 1}


def test_strict_refuses_and_says_what(folder, tmp_path):
  with pytest.raises(UserError, match=r"--strict: 9 of 16 items cannot be used, as .*rejected.jsonl lists; the first is .*alone|blank"):
    prepare(PrepareSpec(input=str(folder)), str(tmp_path), workers=1, strict=True)
  assert not (tmp_path / "clips" / "1.0.0" / "dataset_info.json").exists()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_lists(folder, tmp_path, suffix):
  """Columns by their names, paths relative to the list, several captions, and one bad line among good ones."""
  rows = [{"file": f"files/clip{n}.mp4", "said": f"a clip {n}", "group": str(int(n > 1))} for n in (0, 1, 2, 4)]
  (tmp_path / "files").symlink_to(folder)
  path = tmp_path / f"list{suffix}"
  if suffix == ".csv":
    lines = ["file,said,group", *(f'{row["file"]},"{row["said"]}",{row["group"]}' for row in rows)]
    path.write_text("\n".join([*lines[:2], "one field alone", *lines[2:]]) + "\n")
  elif suffix == ".jsonl":
    lines = [json.dumps(row | {"said": [row["said"], "again"]}) for row in rows]
    path.write_text("\n".join([lines[0], "{no json", *lines[1:]]) + "\n")
  else:
    parquet.write_table(pyarrow.Table.from_pylist([*rows, {"file": "files/none.mp4", "said": "x", "group": "1"}]), path)
  spec = PrepareSpec(input=str(path), media_column="file", caption_column="said", split_by="group", num_test=1)
  where, summary = prepare(spec, str(tmp_path / "out"), workers=1)
  assert summary.clips == {"train": 2, "validation": 2} and sum(summary.rejected.values()) == 1
  (reason,) = rejections(where).values()
  assert reason.startswith({".csv": "1 fields: expected the 3", ".jsonl": "no JSON", ".parquet": "no such file"}[suffix])
  groups = {split: {json.loads(row["columns"])["group"] for row in index(where, split)}
            for split in ("train", "validation")}  # fmt: skip
  assert len(groups["train"]) == len(groups["validation"]) == 1 and groups["train"] != groups["validation"]


def test_filters_and_a_smaller_size(folder, tmp_path):
  spec = PrepareSpec(input=str(folder), max_side=16, min_seconds=1.0, max_fps=30.0, caption_without="number [12]")
  where, summary = prepare(spec, str(tmp_path), workers=1)
  assert (
    sum(summary.clips.values()) == 4
    and summary.rejected["no caption is left of 'clip number N' (--min_characters, --caption_without)"] == 2
  )
  record = next(r for r in tfds.builder_from_directory(where).as_data_source(split="train") if r["frames"] > 1)
  facts = examine(record["media"], "it")
  assert (facts.height, facts.width, facts.frames, facts.seconds) == (12, 16, 12, pytest.approx(2.0, abs=1e-3))
  for options, reason in (
    (dict(min_side=100), "32x24 is smaller than --min_side=100"),
    (dict(max_aspect=1.2), "32x24 is longer than --max_aspect=1.2"),
  ):
    (tmp_path / "one").mkdir(exist_ok=True)
    for suffix in (".mp4", ".txt"):
      shutil.copy(folder / f"clip0{suffix}", tmp_path / "one")
    with pytest.raises(UserError, match="has nothing that can be used"):
      prepare(PrepareSpec(input=str(tmp_path / "one"), **options), str(tmp_path / "none"), workers=1, overwrite=True)
    assert rejections(tmp_path / "none" / "clips" / "1.0.0") == {"clip0.mp4": reason}


def test_a_window_of_a_smaller_encoding_is_cheap_to_reach(tmp_path):
  """A key frame for every second, at uneven times as the file had them."""
  write_clip(tmp_path / "a.mp4", clip(100, frames=40, height=48, width=64), 8)
  (tmp_path / "a.txt").write_text("a")
  where, _ = prepare(PrepareSpec(input=str(tmp_path), max_side=32), str(tmp_path / "out"), workers=1)
  (record,) = tfds.builder_from_directory(where).as_data_source(split="train")
  with av.open(io.BytesIO(record["media"])) as container:
    keys = [float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.is_keyframe and packet.pts is not None]
  assert keys == pytest.approx([0, 1, 2, 3, 4], abs=1e-3)


def test_uneven_times_stay_uneven(tmp_path):
  times = [0, 42, 83, 300, 310, 900, 1500, 1541]
  frames = [np.full((48, 64, 3), 20 * n + 20, np.uint8) for n in range(len(times))]
  (tmp_path / "a.mp4").write_bytes(encode(frames, times=times))
  (tmp_path / "a.txt").write_text("a")
  where, _ = prepare(PrepareSpec(input=str(tmp_path), max_side=32), str(tmp_path / "out"), workers=1)
  (record,) = tfds.builder_from_directory(where).as_data_source(split="train")
  assert [round(1000 * picture.time) for picture in pictures(record["media"])] == times


def test_a_server_that_never_answers(tmp_path):
  pytest.importorskip("aiohttp", reason="the extra cloud")
  with socket.create_server(("127.0.0.1", 0)) as server:
    write_clip(tmp_path / "a.mp4", clip(9), 6)
    rows = [("a.mp4", "here"), (f"http://127.0.0.1:{server.getsockname()[1]}/b.mp4", "there")]
    (tmp_path / "list.csv").write_text("path,caption\n" + "".join(f"{path},{text}\n" for path, text in rows))
    where, summary = prepare(PrepareSpec(input=str(tmp_path / "list.csv"), timeout=0.5), str(tmp_path / "out"), workers=1)
  assert summary.clips == {"train": 1} and list(summary.rejected) == ["did not arrive in N s"]


def test_a_bucket(folder, prepared, tmp_path, monkeypatch):
  """Files of a store that is no disk, from fsspec's memory: read from there, and written there as copies."""
  import fsspec

  system = fsspec.filesystem("memory")
  system.put(f"{folder}/", "/files/", recursive=True)
  where, summary = prepare(PrepareSpec(input="memory://files", shard_items=4), "memory://made", workers=1)
  assert where == "memory://made/clips/1.0.0" and summary == prepared[1]
  names = {os.path.basename(path) for path in system.find("/made/clips/1.0.0")}
  assert names == set(os.listdir(prepared[0])) - {".lock"}
  assert prepare(PrepareSpec(input="memory://files", shard_items=4), "memory://made") == (where, summary)
  assert prepare_files(PrepareSpec(input="memory://files", shard_items=4), "memory://made").endswith("--config.data.dir=memory://made")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  copy, index = find_folder("tfds:clips", "memory://made"), index_name("train")
  assert copy.is_relative_to(tmp_path) and (copy / index).read_bytes() == system.cat_file(f"/made/clips/1.0.0/{index}")
  with pytest.raises(UserError, match="^data.dir=memory://made/clisp: there is nothing, or nothing that may be read"):
    find_folder("tfds:clisp", "memory://made")
  system.rm("/files", recursive=True), system.rm("/made", recursive=True)


@pytest.mark.parametrize("says", ["write", "nothing"])
def test_a_full_disk_is_one_line(folder, tmp_path, monkeypatch, says):
  """What the library says of it, and what its file lacks where it says nothing; the same command goes on once there is room."""

  class Full:
    def __init__(self, path, options):
      pathlib.Path(path).write_bytes(b"")

    def write(self, record):
      pass

    def close(self):
      if says == "write":
        raise RuntimeError("write() failed: No space left on device; writing a; at byte 9")

  with monkeypatch.context() as patched:
    patched.setattr(records.array_record_module, "ArrayRecordWriter", Full)
    reason = {"write": "write\\(\\) failed: No space left on device$", "nothing": "an unfinished file|is the disk full"}[says]
    with pytest.raises(UserError, match=rf"cannot write .*parts/000000.array_record: ({reason})"):
      prepare(PrepareSpec(input=str(folder)), str(tmp_path), workers=1)
  assert not list((tmp_path / "clips" / "1.0.0" / "parts").iterdir())
  assert sum(prepare(PrepareSpec(input=str(folder)), str(tmp_path), workers=1)[1].clips.values()) == 5


def test_copies_of_one_file_over_several_shards(tmp_path):
  """The first in the list's order stays, and the others name it."""
  for n, level in enumerate((50, 90, 50, 130, 90, 50)):
    write_clip(tmp_path / "in" / f"{n}.mp4", clip(level), 6)
    (tmp_path / "in" / f"{n}.txt").write_text(str(level))
  where, _ = prepare(PrepareSpec(input=str(tmp_path / "in"), num_test=0, shard_items=2), str(tmp_path / "out"), workers=1)
  assert [row["source"].rpartition("/")[2] for row in index(where, "train")] == ["0.mp4", "1.mp4", "3.mp4"]
  named = {name: reason.rpartition("/")[2] for name, reason in rejections(where).items()}
  assert named == {"2.mp4": "0.mp4", "4.mp4": "1.mp4", "5.mp4": "0.mp4"}


def test_equal_names_in_two_folders_are_both_kept(tmp_path):
  for n, name in enumerate(("a", "b", "b/a")):
    (tmp_path / "in" / name).mkdir(parents=True)
    write_clip(tmp_path / "in" / name / "same.mp4", clip(50 * n + 50), 6)
    (tmp_path / "in" / name / "same.txt").write_text(name)
  where, summary = prepare(PrepareSpec(input=str(tmp_path / "in"), num_test=0), str(tmp_path / "out"), workers=1)
  assert summary.clips == {"train": 3} and [row["captions"] for row in index(where, "train")] == [["a"], ["b/a"], ["b"]]


NO_COLUMN = "has no such column, .*expected one of"


@pytest.mark.parametrize(
  ("name", "contents", "said"),
  [
    ("nowhere", None, "nowhere: no such folder or list"),
    ("a.tsv", b"x", "did you mean '.csv'|expected one of .csv, .jsonl, .parquet, or a folder"),
    ("a.csv", b"file,caption\n", f"--media_column=path: .* {NO_COLUMN} file, caption"),
    ("b.csv", b"path,text\n", f"--caption_column=caption: .* {NO_COLUMN} path, text"),
    ("c.csv", b"path,caption\n", "has no lines: expected one for each clip or image"),
    ("d.parquet", b"no", "is no Parquet file"),
    (".", None, "holds no clips or images: expected files ending in .mp4"),
  ],
)
def test_what_is_no_input(tmp_path, name, contents, said):
  if contents is not None:
    (tmp_path / name).write_bytes(contents)
  with pytest.raises(UserError, match=said):
    list(items(str(tmp_path / name)))


def test_an_unknown_kind_of_address():
  with pytest.raises(UserError, match="nothing://a/b: Protocol not known"):
    list(items("nothing://a/b"))


def test_a_list_of_100_000_with_one_bad_line(tmp_path):
  lines = [f"a{n}.mp4,clip {n}" for n in range(100_000)]
  lines[70_000] = "a70000.mp4"
  (tmp_path / "list.csv").write_text("path,caption\n" + "\n".join(lines) + "\n")
  problems = collections.Counter(item.problem for item in items(str(tmp_path / "list.csv")))
  assert problems == {"": 99_999, "1 fields: expected the 2 of the first line": 1}


@pytest.mark.parametrize(
  ("options", "said"),
  [
    (dict(name="My clips"), "--name=My clips: expected small letters"),
    (dict(max_side=-1), "--max_side=-1: expected 0 or more"),
    (dict(timeout=0.0), "--timeout=0: expected a positive"),
    (dict(caption_without="("), r"--caption_without=\(: missing"),
  ],
)
def test_options_that_make_no_sense(options, said):
  with pytest.raises(UserError, match=said):
    PrepareSpec(input="a", **options)


def test_columns_that_are_not_there(folder, tmp_path):
  for flag in ("split_by", "background"):
    with pytest.raises(UserError, match=f"--{flag}=colour: .* has no such column, expected one of tone"):
      prepare(PrepareSpec(input=str(folder), **{flag: "colour"}), str(tmp_path), workers=1)
