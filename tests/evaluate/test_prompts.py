"""Seeded prompt sets and prompt files."""

import pytest

from ivid.data import grammar
from ivid.evaluate.prompts import GROUPS, parse_prompt, read_prompts, seeded_prompts


def test_a_longer_list_begins_with_the_shorter_one():
  long = seeded_prompts(3, 20)
  assert seeded_prompts(3, 5) == long[: 5 * len(GROUPS)]
  assert seeded_prompts(4, 5) != long[: 5 * len(GROUPS)]


def test_groups_hold_what_they_say():
  prompts = seeded_prompts(0, 30)
  assert len({prompt.text for prompt in prompts}) == len(prompts) == 120
  for prompt in prompts:
    assert len(prompt.attributes.objects) == (1 if prompt.group.startswith("one") else 2)
    assert {grammar.held_out(item) for item in prompt.attributes.objects} == {prompt.group.endswith("held_out")}
    assert parse_prompt(prompt.text) == prompt


def test_file(tmp_path):
  path = tmp_path / "prompts.txt"
  path.write_text("# two\n\na large red circle moves left on a black background\na small blue star spins on a gray background\n")
  assert [prompt.text.split()[1] for prompt in read_prompts(path)] == ["large", "small"]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("a large red circle moves left on a black background\na large rad circle", "line 2: caption word 3, 'rad': did you mean 'red'?"),
    ("# nothing\n", "has no prompts"),
    ("a small red letter A moves up on a gray background", "letters are always large"),
  ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, text, message):
  path = tmp_path / "prompts.txt"
  path.write_text(text)
  with pytest.raises(ValueError, match="prompts.txt") as error:
    read_prompts(path)
  assert message in str(error.value)


def test_bad_counts_and_groups():
  with pytest.raises(ValueError, match="prompts=0: expected 1 or more"):
    seeded_prompts(0, 0)
  with pytest.raises(ValueError, match="prompt group 'onne'"):
    seeded_prompts(0, 1, ("onne",))
