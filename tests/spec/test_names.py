"""Names that become parts of paths lead nowhere else."""

import dataclasses
import json

import pytest

from ivid.config import load_run
from ivid.spec import convert
from ivid.spec.cascade import CascadeSpec
from ivid.spec.errors import UserError
from ivid.spec.names import check_name, check_path

NANO = load_run("nano:base").cascade
OUTSIDE = ["q/../../casc/base", "..", ".", "", "/etc", "a\\b", "a\0b", "a\nb", ".hidden", "a" * 300, "\ud800"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_of_stages_cascades_and_encoders(name):
  with pytest.raises(UserError, match="expected a name"):
    check_name(name, "stage")
  for spec in (NANO.stages[0], NANO.text, NANO):
    with pytest.raises(UserError, match="expected a name") as error:
      dataclasses.replace(spec, name=name)
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)


def test_a_stage_in_json():
  found = json.loads(json.dumps(convert.to_dict(NANO)))
  found["stages"][0]["name"] = "q/../../casc/base"
  with pytest.raises(UserError, match="stage 'q/../../casc/base': expected a name without slashes"):
    convert.from_dict(CascadeSpec, found)


def test_names_that_are_good():
  for name in ("base", "t5_v1_1_xxl", "model-00001-of-00002.safetensors", "Größe 3", "moving_shapes"):
    assert check_name(name, "file") == name
  assert check_path("moving_shapes/4x12x20/1.0.0", "data set") == "moving_shapes/4x12x20/1.0.0"
  for path in ("../x", "a/../../b", "/a", "a//b", "a/."):
    with pytest.raises(UserError, match="expected a name"):
      check_path(path, "data set")
