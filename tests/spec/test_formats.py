"""Formats of files: what older ones become, and what is refused."""

import copy
import dataclasses
import json
import math

import pytest

from ivid.config import load_run
from ivid.spec import convert, formats
from ivid.spec.formats import FORMAT, Kind, migrate, stamped
from ivid.spec.stage import StageSpec

STAGE = load_run("tiny:base").cascade.stage("base")  # 12 x 20
SHIFT = 2 * math.log(64 / math.sqrt(12 * 20))


def old_stage(value):
  """The stage as format 0 has it."""
  stage = convert.to_dict(STAGE)
  del stage["diffusion"]["logsnr_shift"]
  stage["diffusion"]["resolution_shift"] = value
  return stage


FILES = {
  Kind.CASCADE: (
    lambda stage: {"cascade": {"name": "a", "stages": [stage, stage]}, "manifest": {}},
    lambda file: file["cascade"]["stages"][1],
  ),
  Kind.STAGE: (lambda stage: {"spec": stage, "step": 3}, lambda file: file["spec"]),
  Kind.CHECKPOINT: (lambda stage: {"step": 3, "stage": stage}, lambda file: file["stage"]),
}


@pytest.mark.parametrize(("value", "shift"), [(True, SHIFT), (False, 0.0)])
@pytest.mark.parametrize("kind", FILES)
def test_a_boolean_becomes_the_number_that_it_meant(kind, value, shift):
  make, read = FILES[kind]
  file = make(old_stage(value))
  before = copy.deepcopy(file)
  migrated = migrate(file, kind, source="f.json")
  want = dataclasses.replace(STAGE, diffusion=dataclasses.replace(STAGE.diffusion, logsnr_shift=shift))
  assert convert.from_dict(StageSpec, read(migrated)) == want
  assert file == before and migrated.keys() == file.keys()


@pytest.mark.parametrize("kind", Kind)
def test_a_file_of_today_comes_back_as_it_was(kind):
  file = json.loads(json.dumps(stamped({"spec": convert.to_dict(STAGE), "stage": 3, "cascade": None})))
  assert next(iter(file)) == formats.KEY and file[formats.KEY] == FORMAT
  assert migrate(file, kind, source="f.json") == {key: value for key, value in file.items() if key != formats.KEY}


@pytest.mark.parametrize(
  ("file", "message"),
  [
    ({"format": FORMAT + 1}, f"f.json was written by a newer ivid: format {FORMAT + 1}, this one reads up to {FORMAT}: "),
    ({"format": "1"}, "f.json: format='1': expected a whole number"),
    ({"format": True}, "f.json: format=True: expected a whole number"),
    ({"format": -1}, "f.json: format=-1: expected a whole number"),
    ([1], "f.json holds a list: expected a JSON object"),
    ({"spec": old_stage(2)}, "f.json: diffusion.resolution_shift=2: expected true or false"),
    ({"spec": {"diffusion": {"resolution_shift": True}}}, "f.json: diffusion.resolution_shift=True: expected the stage's output beside it"),
  ],
)
def test_what_is_refused(file, message):
  with pytest.raises(ValueError) as error:
    migrate(file, Kind.STAGE, source="f.json")
  assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_old_keys_in_files_of_today_and_in_configs():
  with pytest.raises(ValueError, match="unknown key 'diffusion.resolution_shift': it is now logsnr_shift, a number: 0.0 for False"):
    convert.from_dict(StageSpec, migrate(stamped({"spec": old_stage(False)}), Kind.STAGE, source="f.json")["spec"])
  misspelt = old_stage(True)
  misspelt["diffusion"]["text_dropp"] = 0.1
  with pytest.raises(ValueError, match=r"unknown key 'diffusion.text_dropp': did you mean 'text_drop'\?"):
    convert.from_dict(StageSpec, migrate({"spec": misspelt}, Kind.STAGE, source="f.json")["spec"])
