"""Edits of PNG and MP4 files that get behind their checksums and lengths: what lies around the edited place is made right again."""

from __future__ import annotations

import json
import pathlib
import random
import struct
import zlib
from collections.abc import Iterator

from tests.faults.edits import edit_bytes, edit_header, edit_json

NUMBERS = (0, 1, 2, 3, 7, 8, 255, 256, 16_384, 65_535, 2**28, 2**31 - 1, 2**31, 2**32 - 1)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = ((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1))  # of IHDR: place and bytes of width, height, depth, colours and so on
BOMB = zlib.compress(bytes(1 << 26), 9)  # 64 MB in 64 KB
STRANGE = [  # chunks that a still may have and a clip of ivid does not
  (b"acTL", struct.pack(">II", 2**31 - 1, 0)),
  (b"acTL", struct.pack(">II", 2, 0)),
  (b"fcTL", struct.pack(">IIIIIHHBB", 0, 4, 4, 0, 0, 0, 0, 0, 0)),
  (b"tRNS", b"\0\1" * 3),
  (b"PLTE", bytes(range(12))),
  (b"gAMA", bytes(4)),
  (b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
  (b"eXIf", b"II*\0" + b"\xff" * 40),
  (b"iCCP", b"a\0\0" + zlib.compress(b"no profile" * 20)),
  (b"iCCP", b"a\0\0" + BOMB),
  (b"zTXt", b"Comment\0\0" + BOMB),
  (b"zTXt", b"Clip\0\0" + zlib.compress(b"6 16 24 3")),
  (b"iTXt", b"Clip\0\0\0\0\0" + "6 16 24 \uff13".encode()),
  (b"tEXt", b"Clip\x006 16 24 3"),
  (b"tEXt", b"Clip"),
  (b"IDAT", b""),
  (b"IEND", b""),
]
LAYOUTS = [  # what the text of a clip's layout may become
  "{} 16 24 3",
  "6 {} 24 3",
  "6 16 {} 3",
  "6 16 24 {}",
  "6 16 24 3/{}",
  "6 16 24 {}/7",
  "6 16 24",
  "",
  "-6 16 24 3",
  "6 16 24 nan",
  "6 24 16 3",
  "3 16 24 3",
]
MOVES = ("drop", "twice", "swap")
PNG_KINDS = ("header", "type", *MOVES, "value", "pixels", "comment", "layout", "length", "sum", "strange", "bytes")

HOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta"}
FOUND = b"moov trak mdat free stsd stts stsc stsz stco co64 ctts stss elst moof meta".split()
SIZES = (0, 1, 2, 7, 8, 9, 15, 16, 2**31 - 1, 2**31, 2**32 - 1)
MP4_KINDS = ("size", "type", "64 bits", "wrong 64 bits", "value", "values", *MOVES, "cut", "nested", "bytes")


def edit_file(path: pathlib.Path, rng: random.Random) -> str:
  """Edits one file; says how."""
  data = path.read_bytes()
  try:
    value = json.loads(data)
  except ValueError:
    value = None
  if path.suffix in (".png", ".mp4"):
    edited, said = (edit_png if path.suffix == ".png" else edit_mp4)(data, rng)
  elif path.suffix == ".safetensors" and rng.random() < 0.6:
    edited, said = edit_header(data, rng)
  elif isinstance(value, dict) and value and rng.random() < 0.85:
    text, said = edit_json(value, rng)
    edited = text.encode("utf-8", "surrogatepass")
  else:
    edited, said = edit_bytes(data, rng)
  path.write_bytes(edited)
  return said


def edit_png(data: bytes, rng: random.Random) -> tuple[bytes, str]:
  """A PNG with one edit, the lengths and sums of its chunks right unless they are what is edited; and what it was."""
  kind = rng.choice(PNG_KINDS)
  if kind == "bytes":
    return edit_bytes(data, rng)
  chunks = png_chunks(data)
  place = rng.randrange(len(chunks))
  name, body = chunks[place]
  said = f"{kind} of {name!r}"
  if kind == "header":
    at, size = rng.choice(HEADER)
    value = rng.choice([number for number in NUMBERS if number < 1 << 8 * size])
    chunks[0] = (b"IHDR", chunks[0][1][:at] + value.to_bytes(size, "big") + chunks[0][1][at + size :])
    said = f"header: {value} at byte {at}"
  elif kind == "type":
    chunks[place] = (rng.choice([b"IHDR", b"IDAT", b"IEND", b"tEXt", b"fdAT", b"\0\0\0\0", b"zzzz", rng.randbytes(4)]), body)
    said += f": {chunks[place][0]!r}"
  elif kind in MOVES:
    move(chunks, place, kind, rng)
  elif kind == "value":
    edited, how = edit_bytes(body, rng)
    chunks[place] = (name, edited)
    said += f": {how}"
  elif kind == "pixels":
    edited, how = edit_bytes(zlib.decompress(b"".join(body for name, body in chunks if name == b"IDAT")), rng)
    first = next(n for n, (name, _) in enumerate(chunks) if name == b"IDAT")
    chunks = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    chunks.insert(first, (b"IDAT", zlib.compress(edited)))
    said = f"pixels: {how}"
  elif kind == "comment":
    text, how = edit_json({"prompt": "a red ball", "seed": 1}, rng)
    chunks.insert(1, (b"tEXt", b"Comment\0" + text.encode("latin-1", "replace")[:100_000]))
    said = f"comment: {how}"
  elif kind == "layout":
    text = rng.choice(LAYOUTS).format(rng.choice([*NUMBERS, 10**9 - 1, 10**9]))
    chunks = [chunk for chunk in chunks if not chunk[1].startswith(b"Clip\0")]
    chunks.insert(1, (b"tEXt", b"Clip\0" + text.encode()))
    said = f"layout: {text!r}"
  elif kind == "strange":
    strange = rng.choice(STRANGE)
    chunks.insert(rng.randrange(1, len(chunks)), strange)
    said = f"strange: {strange}"[:60]
  made = [png_chunk(*chunk) for chunk in chunks]
  if kind == "length":
    length = rng.choice([*NUMBERS, len(body) - 1, len(body) + 1]) % 2**32
    made[place] = length.to_bytes(4, "big") + made[place][4:]
    said += f": {length}"
  elif kind == "sum":
    made[place] = made[place][:-4] + rng.randbytes(4)
  return SIGNATURE + b"".join(made), said


def move(parts: list, place: int, kind: str, rng: random.Random) -> None:
  """Leaves a part out, has it twice, or exchanges it for another: one of MOVES."""
  if kind == "drop":
    del parts[place]
  elif kind == "twice":
    parts.insert(rng.randrange(len(parts) + 1), parts[place])
  else:
    other = rng.randrange(len(parts))
    parts[place], parts[other] = parts[other], parts[place]


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
  """Types and contents."""
  found, at = [], len(SIGNATURE)
  while at < len(data):
    length = int.from_bytes(data[at : at + 4], "big")
    found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
    at += 12 + length
  return found


def png_chunk(name: bytes, body: bytes) -> bytes:
  return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")


class Box:
  """A box of an MP4: its type, and its contents, which are bytes or boxes."""

  def __init__(self, name: bytes, body: bytes):
    self.name, self.wide, self.size = name, False, None
    self.body: bytes | list[Box] = boxes(body) if name in HOLDERS else body

  def __bytes__(self) -> bytes:
    body = self.body if isinstance(self.body, bytes) else b"".join(map(bytes, self.body))
    size = len(body) + (16 if self.wide else 8) if self.size is None else self.size
    return (b"\0\0\0\1" + self.name + size.to_bytes(8, "big") if self.wide else size.to_bytes(4, "big") + self.name) + body


def boxes(data: bytes) -> list[Box]:
  """The boxes of a valid file, or of one that holds boxes."""
  found, at = [], 0
  while at < len(data):
    size = int.from_bytes(data[at : at + 4], "big")
    found.append(Box(data[at + 4 : at + 8], data[at + 8 : at + size]))
    at += size
  return found


def edit_mp4(data: bytes, rng: random.Random) -> tuple[bytes, str]:
  """An MP4 with one edit, the sizes of the boxes around it and the places of the pictures right unless they are edited; and what it was."""
  kind = rng.choice(MP4_KINDS)
  if kind == "bytes":
    return edit_bytes(data, rng)
  top = boxes(data)
  places = list(_places(top))
  siblings, place = rng.choice(places)
  box = siblings[place]
  said = f"{kind} of {box.name!r}"
  if kind in ("value", "values", "cut"):
    siblings, place = rng.choice([(s, n) for s, n in places if isinstance(s[n].body, bytes) and s[n].body and s[n].name != b"mdat"])
    box, said = siblings[place], f"{kind} in {siblings[place].name!r}"
    at = rng.randrange(0, max(1, len(box.body) - 3), 4) if rng.random() < 0.8 else rng.randrange(len(box.body))
    if kind == "cut":
      box.body = box.body[:at]
    else:
      value = rng.choice([*NUMBERS, rng.randrange(2**32)]).to_bytes(4, "big") * (1 if kind == "value" else 4)
      box.body = (box.body[:at] + value + box.body[at + len(value) :])[: len(box.body)]
      said += f": {value.hex()} at byte {at}"
  elif kind == "size":
    box.size = rng.choice([*SIZES, len(bytes(box)) - 1, len(bytes(box)) + 1, len(bytes(box)) + 8])
    said += f": {box.size}"
  elif kind == "type":
    box.name = rng.choice([*FOUND, b"\0\0\0\0", b"zzzz", rng.randbytes(4)])
    said += f": {box.name!r}"
  elif kind.endswith("64 bits"):
    box.wide = True
    if kind.startswith("wrong"):
      box.size = rng.choice([*SIZES, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
      said += f": {box.size}"
  elif kind in MOVES:
    move(siblings, place, kind, rng)
  else:  # nested
    body = b"".join(map(bytes, box.body)) if isinstance(box.body, list) else box.body
    for _ in range(depth := rng.choice([1, 10, 2000])):
      body = (len(body) + 8).to_bytes(4, "big") + (box.name if depth > 1 else b"moov") + body
    box.body = body
    said += f": {depth} deep"
  return _with_pictures_in_place(top, data), said


def _places(found: list[Box]) -> Iterator[tuple[list[Box], int]]:
  """Every box, as its place in the list that holds it."""
  for n, box in enumerate(found):
    yield found, n
    if isinstance(box.body, list):
      yield from _places(box.body)


def _with_pictures_in_place(top: list[Box], before: bytes) -> bytes:
  """The file; where its pictures have moved, the table of their places follows."""
  made = b"".join(map(bytes, top))
  moved = made.find(b"mdat") - before.find(b"mdat")
  for siblings, place in _places(top):
    box = siblings[place]
    if box.name == b"stco" and moved and isinstance(box.body, bytes) and len(box.body) >= 12:
      places = struct.unpack(f">{(len(box.body) - 8) // 4}I", box.body[8 : 8 + (len(box.body) - 8) // 4 * 4])
      box.body = box.body[:8] + b"".join(((at + moved) % 2**32).to_bytes(4, "big") for at in places)
  return b"".join(map(bytes, top))
