"""Seeded prompt sets and prompt files."""

import pytest

from ivid.evaluate.prompts import GROUPS, parse_prompt, read_prompts, seeded_prompts
from ivid.moving_shapes import grammar


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


def test_images_leave_the_motion_out():
  prompts = seeded_prompts(0, 30, images=True)
  assert len({prompt.text for prompt in prompts}) == len(prompts) == 120 and seeded_prompts(0, 5, images=True) == prompts[:20]
  for prompt in prompts:
    assert prompt.image and not any(motion in prompt.text for motion in grammar.MOTIONS)
    assert {grammar.held_out(item) for item in prompt.attributes.objects} == {prompt.group.endswith("held_out")}
    parsed = parse_prompt(prompt.text, image=True)
    assert parsed.image and parsed.group == prompt.group.removesuffix("_held_out")
    assert [item.words[:3] for item in parsed.attributes.objects] == [item.words[:3] for item in prompt.attributes.objects]


def test_more_prompts_than_there_are():
  with pytest.raises(ValueError, match="prompts=1600: there are few more than 1520 different ones of group one: expected 1520 or fewer"):
    seeded_prompts(0, 1600, ("one",), images=True)


def test_file_of_images(tmp_path):
  path = tmp_path / "prompts.txt"
  path.write_text("a large red circle on a black background\n")
  assert read_prompts(path, images=True)[0].group == "one"
  with pytest.raises(ValueError, match="line 1: caption word 5, 'on': expected one of moves left"):
    read_prompts(path)


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
