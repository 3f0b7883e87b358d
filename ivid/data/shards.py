"""Prepares one shard of a data set from its slice of the plan; the bytes are always the same, whichever process does it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from ivid.data import records
from ivid.data.examine import encoded, examine, unfit, usable_captions
from ivid.data.fetch import fetched
from ivid.data.listing import Item
from ivid.data.plan import Plan
from ivid.media.records import writing_records
from ivid.spec.errors import UserError
from ivid.spec.prepare import colour

PARTS = "parts"  # folder of finished shards while others are missing


@dataclasses.dataclass(frozen=True)
class Kept:
  """What is known about a record without opening it; `group` is the hash of what stays together in one split."""

  group: int
  source: str
  captions: tuple[str, ...]
  sha256: str
  frames: int
  seconds: float
  fps: float
  height: int
  width: int
  bytes: int
  columns: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Part:
  """The result of a slice: its records in order, and (file, reason) for what could not be used."""

  kept: tuple[Kept, ...]
  rejected: tuple[tuple[str, str], ...]


def features(plan: Plan) -> tfds.features.FeaturesDict:
  """The features of a record, as TFDS describes them."""
  text, count, number = tfds.features.Text(), tfds.features.Scalar(dtype=np.int32), tfds.features.Scalar(dtype=np.float32)
  wanted = {
    records.MEDIA: text,
    records.CAPTIONS: tfds.features.Sequence(text),
    records.FPS: number,
    records.FRAMES: count,
    records.SECONDS: number,
    records.HEIGHT: count,
    records.WIDTH: count,
    records.COLOUR: text,
    records.SHA256: text,
    records.SOURCE: text,
  }
  return tfds.features.FeaturesDict(wanted | ({records.COLUMNS: {name: text for name in plan.columns}} if plan.columns else {}))


def part_name(shard: int) -> str:
  """The name of the file with a shard's records."""
  return f"{PARTS}/{shard:06}.array_record"


def told_name(shard: int) -> str:
  """The name of the file with the result of a slice; it is written last."""
  return f"{PARTS}/{shard:06}.json"


def prepare_shard(plan: Plan, shard: int) -> None:
  """Writes the shard's records and the result of its slice, unless both exist.

  Raises:
    UserError: the fault is not that of one item: the disk is full, or an address needs another package.
  """
  store = plan.store
  if store.exists(told_name(shard)):
    return
  listed = plan.slice(shard)
  usable = [item for item in listed if not item.problem]
  media = iter(fetched([item.media for item in usable], timeout=plan.spec.timeout))
  form = features(plan)
  serializer = ExampleSerializer(form.get_serialized_info())  # pyright: ignore[reportArgumentType]  TFDS declares less than it offers
  kept, rejected = [], []
  with store.writing(part_name(shard)) as path, writing_records(path) as write:
    for item in listed:
      data, problem = (b"", item.problem) if item.problem else next(media)
      made = problem or _record(plan, item, data)
      if isinstance(made, str):
        rejected.append((item.media, made))
        continue
      row, example = made
      kept.append(row)
      proto = serializer.get_tf_example(form.encode_example(example))
      write(proto.SerializeToString(deterministic=True))  # otherwise the order of its entries is undefined
  told = {"kept": [dataclasses.asdict(row) for row in kept], "rejected": rejected}
  store.write(told_name(shard), json.dumps(told, ensure_ascii=False, indent=0) + "\n")


def read_part(plan: Plan, shard: int) -> Part:
  """Reads what `prepare_shard` wrote."""
  told = json.loads(plan.store.read(told_name(shard)))
  kept = tuple(Kept(**row | {"captions": tuple(row["captions"])}) for row in told["kept"])
  return Part(kept, tuple(map(tuple, told["rejected"])))


def _record(plan: Plan, item: Item, media: bytes) -> tuple[Kept, dict[str, Any]] | str:
  """An item's record and what is known about it, or the reason why there is none."""
  spec = plan.spec
  captions = usable_captions(item.captions, spec)
  if not captions:
    return f"no caption is left of {' | '.join(item.captions)!r} (--min_characters, --caption_without)"
  behind = spec.background if colour(spec.background) else item.columns.get(spec.background, "")
  background = colour(behind)
  if background is None:
    return f"{spec.background} is {behind!r}: expected a colour such as #ff8800"
  try:
    facts = examine(media, "it")
    reason = unfit(facts, spec)
    if reason:
      return reason
    stored, facts = encoded(media, facts, spec, background)
  except UserError as error:
    return str(error)
  except (MemoryError, KeyboardInterrupt):
    raise
  except Exception as error:  # foreign decoders raise undocumented errors, and one file must never end the job
    return f"it cannot be decoded ({type(error).__name__}): {error}"
  digest = hashlib.sha256(media).hexdigest()  # hash of the original file, since the same file is the same clip
  about: dict[str, Any] = dict(captions=captions, sha256=digest, **dataclasses.asdict(facts))
  row = Kept(group=plan.group(item), source=item.media, bytes=len(stored), columns=item.columns, **about)
  example = {records.MEDIA: stored, records.COLOUR: behind, records.SOURCE: item.media, **about}
  if plan.columns:
    example[records.COLUMNS] = {name: item.columns.get(name, "") for name in plan.columns}
  return row, example
