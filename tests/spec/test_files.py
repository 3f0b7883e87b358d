"""JSON on its way in."""

import dataclasses

import pytest

from ivid.spec import files, formats
from ivid.spec.cascade import TextSpec
from ivid.spec.errors import UserError
from ivid.spec.limits import DEEPEST_FILE
from ivid.spec.sampling import SamplingSpec


@pytest.mark.parametrize(
  "text, message",
  [
    ("[" * 100_000 + "]" * 100_000, f"holds lists or objects more than {DEEPEST_FILE} deep"),
    ("[" * (DEEPEST_FILE + 1) + "]" * (DEEPEST_FILE + 1), f"holds lists or objects more than {DEEPEST_FILE} deep"),
    ('{"a": 1', "is no JSON: Expecting"),
    (b"\xff\xfe\x00\xd8", "is no JSON"),
    ("9" * 5000, "is no JSON: Exceeds the limit"),
    ("", "is no JSON"),
  ],
)
def test_what_is_no_json(text, message):
  with pytest.raises(UserError, match=f"^a.json {message}"):
    files.parse_json(text, source="a.json")


def test_depth_that_is_allowed():
  assert files.parse_json("[" * DEEPEST_FILE + "]" * DEEPEST_FILE, source="") is not None


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
  monkeypatch.setattr(files, "LARGEST_JSON", 100)
  path = tmp_path / "a.json"
  path.write_text("[" + "1, " * 100 + "1]")
  with pytest.raises(UserError, match=r"a.json has 303 bytes: expected at most 100 of JSON"):
    files.read_json(path)


@pytest.mark.parametrize(
  "text, message",
  [
    ("null", "a.json holds a NoneType: expected a JSON object"),
    ("[1]", "a.json holds a list"),
    ('{"name": "a", "layers": null}', "a.json: layers=None: expected int"),
    ('{"name": "a", "layers": 1e9}', "a.json: layers=1000000000.0: expected int"),
    ('{"name": "a", "lairs": 3}', "a.json: unknown key 'lairs': did you mean 'layers'"),
    ('{"name": "' + "a" * 100_000 + '"}', "a.json: text encoder 'aaaa"),
    ('{"name": {"' + "a" * 100_000 + '": 1}}', "a.json: name={'aaa.*: expected str"),
  ],
)
def test_a_schema_names_the_file_the_key_and_a_part_of_the_value(tmp_path, text, message):
  (tmp_path / "a.json").write_text(text)
  with pytest.raises(UserError, match=message) as error:
    files.read_spec(TextSpec, tmp_path / "a.json", formats.Kind.TEXT)
  assert len(str(error.value)) < 500


@pytest.mark.parametrize("value", [None, 3, "a", []])
def test_sections_that_are_none(value):
  with pytest.raises(UserError, match="SamplingSpec=.*: expected a section|guidance=.*: expected a section"):
    files.as_spec(SamplingSpec, value, source="a")
  with pytest.raises(UserError, match="guidance=.*: expected a section"):
    files.as_spec(SamplingSpec, {"guidance": value}, source="a")


def test_whole_numbers_beyond_floats():
  with pytest.raises(UserError, match="gamma=inf: expected 0 to 1"):
    files.as_spec(SamplingSpec, {"gamma": 10**400}, source="a")
  assert dataclasses.asdict(files.as_spec(SamplingSpec, {"gamma": 1}, source="a"))["gamma"] == 1.0
