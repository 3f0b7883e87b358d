"""`ivid sample` of 200 prompts: its memory does not grow with the clips that it has made."""

import re
import subprocess
import time

import pytest

from tests.faults.trials import start
from tests.sample import tiny

MARKS = (50, 100, 150, 200)
CLIPS = MARKS[-1] + 5  # so that the process is there to be asked
GROWTH = 1.03


def resident(process):
  """Memory of a running process in MiB."""
  with open(f"/proc/{process.pid}/status") as file:
    return int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]) / 1024


@pytest.mark.slow
def test_memory_stays(tmp_path):
  began, cascade, out = time.monotonic(), tiny.write_tiny(tmp_path).folder, tmp_path / "out"
  prompts = tmp_path / "prompts.txt"
  prompts.write_text("".join(f"a red ball and {n} blue cubes\n" for n in range(CLIPS)))
  args = ["sample", f"--cascade={cascade}", f"--prompts_file={prompts}", f"--out={out}", "--steps=1", "--batch_size=1"]
  process, found = start(args, tmp_path / "cache", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL), {}
  for number, _ in enumerate(process.stdout, start=1):  # a line for each clip
    if number in MARKS:
      found[number] = resident(process)
  assert process.wait() == 0 and len(list(out.glob("*.mp4"))) == CLIPS
  print(f"\nMiB: {', '.join(f'{n} clips {value:.0f}' for n, value in found.items())}; {time.monotonic() - began:.0f} s in all")
  assert found.keys() == set(MARKS) and max(found.values()) < GROWTH * found[MARKS[0]]
