"""The data set from its shards: duplicates left out, an index of what there is, and the list of what could not be used."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import posixpath
import re
import tempfile
from collections import Counter

import numpy as np
import pyarrow
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source
from pyarrow import parquet
from tensorflow_datasets.core import dataset_info

from ivid.data import shards
from ivid.data.plan import VERSION, Plan
from ivid.data.records import index_name
from ivid.spec.errors import UserError

SUMMARY, REJECTED = "summary.json", "rejected.jsonl"
SHOWN_REASONS = 8
HASH = np.dtype([("high", ">u8"), ("low", ">u8")])  # of SHA-256, enough to tell files apart
FORMAT = "array_record"
TRAIN, VALIDATION = SPLITS = ("train", "validation")
SHARE, MOST = 20, 1000  # one of so many items is for validation, and at most so many
LEAST_ITEMS = 3  # from which there is a validation split
NO_GROUP = -1  # below every hash

INDEX_SCHEMA = pyarrow.schema(
  [
    ("source", pyarrow.string()),
    ("captions", pyarrow.list_(pyarrow.string())),
    ("sha256", pyarrow.string()),
    ("frames", pyarrow.int32()),
    ("seconds", pyarrow.float64()),
    ("fps", pyarrow.float64()),
    ("height", pyarrow.int32()),
    ("width", pyarrow.int32()),
    ("bytes", pyarrow.int64()),
    ("columns", pyarrow.string()),  # JSON
  ]
)


@dataclasses.dataclass(frozen=True)
class Summary:
  """What a data set came to: clips and images of each split, and how many items were left out for which reason."""

  clips: dict[str, int]
  images: dict[str, int]
  rejected: dict[str, int]

  def __str__(self) -> str:
    said = [f"{split}: {self.clips[split]} clips, {self.images[split]} images" for split in self.clips]
    if self.rejected:
      said.append(f"{sum(self.rejected.values())} left out ({REJECTED}):")
      common = sorted(self.rejected.items(), key=lambda pair: (-pair[1], pair[0]))
      said += [f"  {count} x {reason}" for reason, count in common[:SHOWN_REASONS]]
      if len(common) > SHOWN_REASONS:
        said.append(f"  and {len(common) - SHOWN_REASONS} other reasons")
    return "\n".join(said)


def missing_shards(plan: Plan) -> list[int]:
  """Shards that are not prepared yet; none of a finished data set."""
  if plan.store.exists(SUMMARY):
    return []
  there = set(plan.store.names(shards.PARTS))
  return [n for n in range(plan.shards) if posixpath.basename(shards.told_name(n)) not in there]


def finish(plan: Plan, *, strict: bool) -> Summary:
  """Puts the data set together of all its shards, or says what it came to if that is done.

  Raises:
    UserError: nothing that can be used; with `strict`, anything that cannot.
  """
  store = plan.store
  with store.alone():
    if not store.exists(SUMMARY):
      _put_together(plan, strict=strict)
    store.remove(shards.PARTS)  # also what a process left that was killed right before
  found = json.loads(store.read(SUMMARY))
  if strict and found["rejected"]:
    left_out = posixpath.join(plan.folder, REJECTED)
    raise UserError(f"--strict: {sum(found['rejected'].values())} of {plan.items} items could not be used, as {left_out} lists")
  return Summary(found["clips"], found["images"], found["rejected"])


def _put_together(plan: Plan, *, strict: bool) -> None:
  store = plan.store
  doubles, rejected = _doubles(plan)
  with store.writing(REJECTED) as path, path.open("w", encoding="utf-8") as file:
    for source, reason in rejected:
      file.write(json.dumps({"file": source, "reason": reason}, ensure_ascii=False) + "\n")
  reasons = Counter(_kind(reason) for _, reason in rejected)
  if strict and rejected:
    source, reason = rejected[0]
    raise UserError(
      f"--strict: {len(rejected)} of {plan.items} items cannot be used, as {posixpath.join(plan.folder, REJECTED)} lists; "
      f"the first is {source}: {reason}"
    )
  clips, images, chosen = {}, {}, {}
  last = _last_group(plan, doubles)
  for split in SPLITS:
    counts = Counter()
    lengths = _split(plan, split, last, doubles, counts)
    if lengths:
      chosen[split] = (lengths, counts["bytes"])
      clips[split], images[split] = counts["clips"], counts["images"]
  if not chosen:
    raise UserError(f"{plan.spec.input} has nothing that can be used: {Summary({}, {}, dict(reasons))}".replace("\n", " "))
  _describe(plan, chosen)
  summary = dict(clips=clips, images=images, rejected=dict(sorted(reasons.items())))
  store.write(SUMMARY, json.dumps(summary, indent=1) + "\n")


def _describe(plan: Plan, splits: dict[str, tuple[list[int], int]]) -> None:
  """Writes what TFDS reads: features, and of each split the records of its files and its bytes."""
  with tempfile.TemporaryDirectory() as folder:  # TFDS leaves halves where it is stopped
    identity = dataset_info.DatasetIdentity(plan.spec.name, tfds.core.Version(VERSION), folder, module_name="")
    info = tfds.core.DatasetInfo(builder=identity, features=shards.features(plan), description=f"Clips and images of {plan.spec.input}.")
    info.set_file_format(FORMAT)
    template = tfds.core.ShardedFileTemplate(dataset_name=plan.spec.name, data_dir=folder, filetype_suffix=FORMAT)
    infos = [
      tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template.replace(split=split))
      for split, (lengths, size) in splits.items()
    ]
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(folder)
    for file in sorted(pathlib.Path(folder).iterdir()):
      plan.store.write(file.name, file.read_bytes())


def _kind(reason: str) -> str:
  """A reason without what differs from file to file: what stands before its colon, and no numbers."""
  return re.sub(r"(?<![-\w])\d+(\.\d+)?", "N", reason.split(": ")[0])


def _doubles(plan: Plan) -> tuple[dict[int, set[int]], list[tuple[str, str]]]:
  """Places, in each shard's kept items, of files that came before; and all that is left out, in the list's order by shard."""
  before = _same_before(plan)
  needed = set(before.values())
  sources: dict[int, str] = {}
  doubles: dict[int, set[int]] = {}
  rejected, number = [], 0
  for shard in range(plan.shards):
    part = shards.read_part(plan, shard)
    rejected += part.rejected
    for place, row in enumerate(part.kept):
      if number in needed:
        sources[number] = row.source
      if number in before:
        doubles.setdefault(shard, set()).add(place)
        rejected.append((row.source, f"the same file as another: {sources[before[number]]}"))
      number += 1
  return doubles, rejected


def _same_before(plan: Plan) -> dict[int, int]:
  """Of kept items, numbered over all shards, those that are the same file as an earlier one, and the first one that is."""
  digests = [np.zeros(0, HASH)]
  for shard in range(plan.shards):
    hashes = b"".join(bytes.fromhex(row.sha256)[: HASH.itemsize] for row in shards.read_part(plan, shard).kept)
    digests.append(np.frombuffer(hashes, HASH))
  order = np.argsort(whole := np.concatenate(digests), order=["high", "low"], kind="stable")
  same = np.concatenate([[False], whole[order][1:] == whole[order][:-1]])[: len(order)]
  firsts = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
  return {int(order[n]): int(order[firsts[n]]) for n in np.flatnonzero(same)}


def _last_group(plan: Plan, doubles: dict[int, set[int]]) -> int:
  """The hash up to which groups are for validation: the fewest that have as many items as are asked for, one that trains left over."""
  found = [np.zeros(0, np.int64)]
  for shard in range(plan.shards):
    left_out = doubles.get(shard, ())
    kept = enumerate(shards.read_part(plan, shard).kept)
    found.append(np.array([row.group for place, row in kept if place not in left_out], np.int64))
  groups = np.concatenate(found)
  wanted = plan.spec.num_test
  if wanted < 0:
    wanted = 0 if len(groups) < LEAST_ITEMS else min(MOST, max(1, len(groups) // SHARE))
  hashes, counts = np.unique(groups, return_counts=True)
  if not wanted or len(hashes) < 2:
    return NO_GROUP
  place = int(np.searchsorted(np.cumsum(counts), wanted))
  return int(hashes[min(place, len(hashes) - 2)])


def _split(plan: Plan, split: str, last: int, doubles: dict[int, set[int]], counts: Counter) -> list[int]:
  """Writes the files of a split and its index, counts what they hold, and returns the records of each."""
  store = plan.store
  chosen = []  # (shard, places of its records, or None for all of them, their number)
  with store.writing(index_name(split)) as path, parquet.ParquetWriter(path, INDEX_SCHEMA) as writer:
    for shard in range(plan.shards):
      left_out = doubles.get(shard, ())
      kept = shards.read_part(plan, shard).kept
      places = [n for n, row in enumerate(kept) if n not in left_out and (row.group <= last) == (split == VALIDATION)]
      if not places:
        continue
      rows = [kept[n] for n in places]
      chosen.append((shard, None if len(places) == len(kept) else places, len(places)))
      counts.update("images" if row.frames == 1 else "clips" for row in rows)
      counts["bytes"] += sum(row.bytes for row in rows)
      table = [dataclasses.asdict(row) | {"columns": json.dumps(row.columns, sort_keys=True)} for row in rows]
      writer.write_table(pyarrow.Table.from_pylist(table, INDEX_SCHEMA))
  if not chosen:
    store.remove(index_name(split))
  for number, (shard, places, _) in enumerate(chosen):
    name = f"{plan.spec.name}-{split}.{FORMAT}-{number:05}-of-{len(chosen):05}"
    if places is None:
      store.copy(shards.part_name(shard), name)
      continue
    with store.local(shards.part_name(shard)) as source, store.writing(name) as path, shards.writing_records(path) as write:
      have = array_record_data_source.ArrayRecordDataSource([source])
      for place in places:
        write(have[place])
  return [count for *_, count in chosen]
