"""Assembles a data set from its shards: removes duplicates, writes an index, and lists what could not be used."""

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
from ivid.media.files import naming_disk_errors
from ivid.media.records import writing_records
from ivid.spec.errors import UserError
from ivid.spec.words import counted

SUMMARY, REJECTED = "summary.json", "rejected.jsonl"
SHOWN_REASONS = 8
HASH = np.dtype([("high", ">u8"), ("low", ">u8")])  # a part of SHA-256, enough to tell files apart
FORMAT = "array_record"
TRAIN, VALIDATION = "train", "validation"
SHARE, MOST = 20, 1000  # one in SHARE items is for validation, and at most MOST items
LEAST_ITEMS = 3  # with fewer items there is no validation split
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
  """Summary of a data set: clips and images per split, and how many items were left out for which reason."""

  clips: dict[str, int]
  images: dict[str, int]
  rejected: dict[str, int]

  def __str__(self) -> str:
    said = [f"{split}: {counted(self.clips[split], 'clip')}, {counted(self.images[split], 'image')}" for split in self.clips]
    if self.rejected:
      said.append(f"{sum(self.rejected.values())} left out ({REJECTED}):")
      common = sorted(self.rejected.items(), key=lambda pair: (-pair[1], pair[0]))
      said += [f"  {count} x {reason}" for reason, count in common[:SHOWN_REASONS]]
      if len(common) > SHOWN_REASONS:
        said.append(f"  and {len(common) - SHOWN_REASONS} other reasons")
    return "\n".join(said)


def missing_shards(plan: Plan) -> list[int]:
  """Shards that are not prepared yet; a finished data set has none."""
  if plan.store.exists(SUMMARY):
    return []
  there = set(plan.store.names(shards.PARTS))
  return [n for n in range(plan.shards) if posixpath.basename(shards.told_name(n)) not in there]


def finish(plan: Plan, *, strict: bool) -> Summary:
  """Assembles the data set from all of its shards; if that is already done, only returns the summary.

  Raises:
    UserError: nothing can be used; or, with `strict`, anything cannot be used.
  """
  store = plan.store
  with store.alone():
    if not store.exists(SUMMARY):
      _put_together(plan, strict=strict)
    store.remove(shards.PARTS)  # also removes what is left of a process that was killed just before this
  found = json.loads(store.read(SUMMARY))
  if strict and found["rejected"]:
    left_out = posixpath.join(plan.folder, REJECTED)
    raise UserError(f"--strict: {sum(found['rejected'].values())} of {plan.items} items could not be used, as {left_out} lists")
  return Summary(found["clips"], found["images"], found["rejected"])


def _put_together(plan: Plan, *, strict: bool) -> None:
  store = plan.store
  digests, groups = _survey(plan)
  before = _same_before(digests)
  reasons, first = _write_rejected(plan, before)
  if strict and first:
    raise UserError(
      f"--strict: {sum(reasons.values())} of {plan.items} items cannot be used, as {posixpath.join(plan.folder, REJECTED)} lists; "
      f"the first is {first}"
    )
  once = np.ones(len(groups), bool)
  once[list(before)] = False
  validation = groups <= _last_group(groups[once], plan.spec.num_test)
  clips, images, chosen = {}, {}, {}
  for split, wanted in ((TRAIN, once & ~validation), (VALIDATION, once & validation)):
    counts = Counter()
    lengths = _split(plan, split, wanted, counts)
    if lengths:
      chosen[split] = (lengths, counts["bytes"])
      clips[split], images[split] = counts["clips"], counts["images"]
  if not chosen:
    raise UserError(f"{plan.spec.input} has nothing that can be used: {Summary({}, {}, dict(reasons))}".replace("\n", " "))
  _describe(plan, chosen)
  summary = dict(clips=clips, images=images, rejected=dict(sorted(reasons.items())))
  store.write(SUMMARY, json.dumps(summary, indent=1) + "\n")


def _describe(plan: Plan, splits: dict[str, tuple[list[int], int]]) -> None:
  """Writes what TFDS reads: the features and, per split, the number of records per file and the bytes."""
  with naming_disk_errors(plan.folder), tempfile.TemporaryDirectory() as folder:  # TFDS leaves halves where it is stopped
    identity = dataset_info.DatasetIdentity(plan.spec.name, tfds.core.Version(VERSION), folder, module_name="")
    info = tfds.core.DatasetInfo(builder=identity, features=shards.features(plan), description=f"Clips and images of {plan.spec.input}.")
    info.set_file_format(FORMAT)
    template = tfds.core.ShardedFileTemplate(dataset_name=plan.spec.name, data_dir=folder, filetype_suffix=FORMAT)  # pyright: ignore[reportArgumentType]  TFDS declares neither
    infos = [
      tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template.replace(split=split))
      for split, (lengths, size) in splits.items()
    ]
    info.set_splits(tfds.core.splits.SplitDict(infos))  # pyright: ignore[reportAttributeAccessIssue]  TFDS declares neither
    info.write_to_directory(folder)
    for file in sorted(pathlib.Path(folder).iterdir()):
      plan.store.write(file.name, file.read_bytes())


def _kind(reason: str) -> str:
  """A reason without the parts that differ between files: only the text before the colon, without numbers."""
  return re.sub(r"(?<![-\w])\d+(\.\d+)?", "N", reason.split(": ")[0])


def _survey(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
  """Digests HASH [N] and groups int64 [N] of the kept items of all shards."""
  digests, groups = [np.zeros(0, HASH)], [np.zeros(0, np.int64)]
  for shard in range(plan.shards):
    kept = shards.read_part(plan, shard).kept
    digests.append(np.frombuffer(b"".join(bytes.fromhex(row.sha256)[: HASH.itemsize] for row in kept), HASH))
    groups.append(np.array([row.group for row in kept], np.int64))
  return np.concatenate(digests), np.concatenate(groups)


def _same_before(digests: np.ndarray) -> dict[int, int]:
  """The indices of items that are the same file as an earlier item, and the indices of those earlier items."""
  order = np.argsort(digests, order=["high", "low"], kind="stable")
  same = np.concatenate([[False], digests[order][1:] == digests[order][:-1]])[: len(order)]
  firsts = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
  return {int(order[n]): int(order[firsts[n]]) for n in np.flatnonzero(same)}


def _write_rejected(plan: Plan, before: dict[int, int]) -> tuple[Counter, str]:
  """Writes all rejected items in the order of the list. Returns the count of each kind of reason, and the first reason in full."""
  needed, sources, reasons, first, number = set(before.values()), {}, Counter(), "", 0
  with plan.store.writing(REJECTED) as path, path.open("w", encoding="utf-8") as file:
    for shard in range(plan.shards):
      part = shards.read_part(plan, shard)
      rejected = list(part.rejected)
      for row in part.kept:
        if number in needed:
          sources[number] = row.source
        if number in before:
          rejected.append((row.source, f"the same file as another: {sources[before[number]]}"))
        number += 1
      for source, reason in rejected:
        file.write(json.dumps({"file": source, "reason": reason}, ensure_ascii=False) + "\n")
        reasons[_kind(reason)] += 1
        first = first or f"{source}: {reason}"
  return reasons, first


def _last_group(groups: np.ndarray, wanted: int) -> int:
  """The largest hash of the validation groups: the fewest groups with the requested number of items that leave one for training."""
  if wanted < 0:
    wanted = 0 if len(groups) < LEAST_ITEMS else min(MOST, max(1, len(groups) // SHARE))
  hashes, counts = np.unique(groups, return_counts=True)
  if not wanted or len(hashes) < 2:
    return NO_GROUP
  place = int(np.searchsorted(np.cumsum(counts), wanted))
  return int(hashes[min(place, len(hashes) - 2)])


def _split(plan: Plan, split: str, wanted: np.ndarray, counts: Counter) -> list[int]:
  """Writes the files of a split and its index, counts what they hold, and returns the records of each.

  Args:
    wanted: bool [N], over the kept items of all shards.
  """
  store = plan.store
  chosen = []  # (shard, places of its records, or None for all of them, their number)
  number = 0
  with store.writing(index_name(split)) as path, parquet.ParquetWriter(path, INDEX_SCHEMA) as writer:
    for shard in range(plan.shards):
      kept = shards.read_part(plan, shard).kept
      places = np.flatnonzero(wanted[number : number + len(kept)]).tolist()
      number += len(kept)
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
    with store.local(shards.part_name(shard)) as source, store.writing(name) as path, writing_records(path) as write:
      have = array_record_data_source.ArrayRecordDataSource([source])
      for place in places:
        write(have[place])
  return [count for *_, count in chosen]
