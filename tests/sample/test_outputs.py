"""Files that are named by their prompts."""

import warnings

import pytest

from ivid.sample.keys import Sample
from ivid.sample.outputs import LONGEST_NAME, Outputs, prompt_name
from ivid.spec.errors import UserError
from tests.sample import tiny


@pytest.mark.parametrize("prompt", ["A person is riding a bike.", 'it\'s 50% "off": a, b; c?', "眺め " * 20, "x" * LONGEST_NAME])
def test_a_prompt_that_can_be_a_name_is_one(prompt, tmp_path):
  assert prompt_name(prompt) == prompt
  outputs = Outputs(tmp_path, "", clips=2, names="vbench")
  assert outputs.stem(Sample(prompt, 7, 3)) == f"{prompt}-3" and outputs.stem(Sample(prompt, 7, 3), "base") == f"{prompt}-3-base"
  assert outputs.numbered({prompt: 5}).stem(Sample(prompt, 7, 3)) == f"{prompt}-3"  # no other prompt has that name


@pytest.mark.parametrize("prompt", ["", "a/b", "../up", ".hidden", "two\nlines", "a\0b", "x" * 201, "é" * 101, "\udc80"])
def test_others_are_changed_and_told_apart(prompt, tmp_path):
  name = prompt_name(prompt)
  path = tmp_path / f"{name}-0-ssr3_12.json"
  path.write_text("")  # the file system takes it
  assert [file.name for file in tmp_path.iterdir()] == [path.name] and not name.startswith(".")
  assert len({prompt_name(other) for other in (prompt, prompt + "/", prompt + "x" * 300, prompt + "y" * 300)}) == 4


def test_what_is_changed_is_said_before_any_work(tmp_path):
  stage = tiny.tiny_cascade("").stages[0]
  samples = [Sample(prompt, 0, n) for prompt in ("fit", "a/b") for n in range(2)]
  with pytest.warns(UserWarning, match=r"^prompt 'a/b' is unfit for a file's name: its clips are named 'a_b~[0-9a-f]{8}'$") as caught:
    Outputs(tmp_path, "png", clips=4, names="vbench").check([stage], samples)
  assert len(caught) == 1
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    Outputs(tmp_path, "png", clips=4).check([stage], samples)


def test_bad_input():
  with pytest.raises(UserError, match="^names=vbnch: expected vbench, or none$"):
    Outputs("out", "", clips=1, names="vbnch")
  with pytest.raises(UserError, match="^out=a.mp4 is one file, names=vbench: expected a folder"):
    Outputs("a.mp4", "", clips=1, names="vbench")
