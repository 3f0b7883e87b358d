"""Folders of clips and their prompts."""

import numpy as np
import pytest

from ivid.evaluate.folder import find_clips
from ivid.evaluate.prompts import seeded_prompts
from ivid.media.clips import write_clip
from ivid.media.pictures import write_png

BLACK = np.zeros((4, 24, 40, 3), np.uint8)
PROMPTS = seeded_prompts(0, 1)


def save(folder, **metadata):
  for name, value in metadata.items():
    write_clip(folder / f"{name}.mp4", BLACK, 3.0, metadata=value)


def test_prompts_from_the_clips_themselves(tmp_path):
  save(tmp_path, b=dict(prompt=PROMPTS[1].text), a=dict(prompt=PROMPTS[2].text))
  write_png(tmp_path / "contact_sheet.png", BLACK[0])
  assert find_clips(tmp_path) == [(PROMPTS[2], tmp_path / "a.mp4"), (PROMPTS[1], tmp_path / "b.mp4")]


def test_prompts_in_the_order_of_the_names(tmp_path):
  save(tmp_path, b=None, a=None)
  assert find_clips(tmp_path, PROMPTS[:2]) == [(PROMPTS[0], tmp_path / "a.mp4"), (PROMPTS[1], tmp_path / "b.mp4")]


def test_bad_folders(tmp_path):
  with pytest.raises(ValueError, match="no folder of clips at"):
    find_clips(tmp_path / "none")
  with pytest.raises(ValueError, match="has no clips: expected files that end in .mp4"):
    find_clips(tmp_path)
  save(tmp_path, a=None)
  with pytest.raises(ValueError, match="1 clips in .* and 2 prompts: expected as many"):
    find_clips(tmp_path, PROMPTS[:2])
  with pytest.raises(ValueError, match="a.mp4 does not say what it is to show"):
    find_clips(tmp_path)
  for prompt in (3, ["a"], 1e400):
    save(tmp_path, a=dict(prompt=prompt))
    with pytest.raises(ValueError, match=r"a.mp4: its prompt is (3|\['a'\]|inf): expected a text"):
      find_clips(tmp_path)
  save(tmp_path, a=dict(prompt="a cat"))
  with pytest.raises(ValueError, match="a.mp4: caption word 2, 'cat'"):
    find_clips(tmp_path)
