#!/usr/bin/env python3
"""Microsoft's animated 3D emoji (MIT) as a data set of captioned clips: 2,109 animations and 1,282 stills of 256x256.

python launch/emoji.py --out=emoji
ivid train --config=own_data:base --workdir=runs/emoji --config.data.name=tfds:emoji --config.data.dir=emoji/data --config.data.short=loop

It fetches 730 MB with npm, writes a list (caption from name, skin tone and the colour behind; columns to split by), and calls the ordinary
`ivid data prepare`. All skin tones of an emoji are in one split.
"""

import argparse
import csv
import hashlib
import json
import pathlib
import subprocess
import sys
import tarfile

PACKAGES = [f"@lobehub/fluent-emoji-anim-{n}@1.0.0" for n in (1, 2, 3, 4)]
NAMES = "unicode-emoji-json@0.9.0"
TONES = {0x1F3FB: "light", 0x1F3FC: "medium-light", 0x1F3FD: "medium", 0x1F3FE: "medium-dark", 0x1F3FF: "dark"}
PRESENTATION = 0xFE0F  # says nothing of what is shown
COLOURS = {
  "white": "#ffffff",
  "black": "#000000",
  "gray": "#808080",
  "pink": "#f8b8d0",
  "green": "#78c078",
  "blue": "#4878d0",
  "yellow": "#f0e070",
  "purple": "#9060b0",
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", required=True, type=pathlib.Path, help="folder for the packages, the list and the data set")
  parser.add_argument("options", nargs="*", help="of ivid data prepare, behind --")
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  for package in (*PACKAGES, NAMES):
    fetch(package, args.out / "packages")
  listed = write_list(args.out / "packages", args.out / "emoji.csv")
  print(f"wrote {listed} lines to {args.out / 'emoji.csv'}", flush=True)
  flags = [f"--input={args.out / 'emoji.csv'}", f"--out={args.out / 'data'}", "--name=emoji", "--split_by=emoji", "--background=colour"]
  sys.exit(subprocess.run([sys.executable, "-m", "ivid", "data", "prepare", *flags, *args.options]).returncode)


def fetch(package: str, folder: pathlib.Path) -> None:
  """Unpacks an npm package into a folder of its own, unless that is there."""
  target = folder / folder_name(package)
  if target.is_dir():
    return
  folder.mkdir(exist_ok=True)
  packed = subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True).stdout.split()[-1]
  fresh = target.with_suffix(".part")
  with tarfile.open(folder / packed) as archive:
    archive.extractall(fresh, filter="data")
  fresh.rename(target)
  (folder / packed).unlink()


def folder_name(package: str) -> str:
  return package.rpartition("@")[0].rpartition("/")[2]


def write_list(folder: pathlib.Path, path: pathlib.Path) -> int:
  """A line for each picture; returns how many."""
  names = {
    points(emoji): entry["name"] for emoji, entry in json.loads(next(folder.glob("*json/package/data-by-emoji.json")).read_text()).items()
  }
  files = sorted(folder.glob("*/package/assets/*.webp"))
  with open(path, "w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["path", "caption", "emoji", "colour"])
    for picture in files:
      found = tuple(int(point, 16) for point in picture.stem.split("-"))
      base = tuple(point for point in found if point not in TONES and point != PRESENTATION)
      said = names.get(base, " ".join(f"U+{point:X}" for point in base))
      tones = list(dict.fromkeys(TONES[point] for point in found if point in TONES))
      skin = f" with {' and '.join(tones)} skin" if tones else ""
      colour = list(COLOURS)[hashlib.sha256(picture.stem.encode()).digest()[0] % len(COLOURS)]
      writer.writerow([picture.relative_to(path.parent), f"{said}{skin} on a {colour} background", said, COLOURS[colour]])
  return len(files)


def points(emoji: str) -> tuple[int, ...]:
  """Code points of an emoji without skin tones and presentation."""
  return tuple(ord(c) for c in emoji if ord(c) not in TONES and ord(c) != PRESENTATION)


if __name__ == "__main__":
  main()
