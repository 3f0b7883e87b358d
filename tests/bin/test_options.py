"""Options of sampling on the command line: a value for all stages, or values by stage."""

import pytest
from absl import flags

from ivid.bin.options import define_options, read_options
from ivid.sample.option_texts import left_of
from ivid.sample.plan import OTHERS
from ivid.spec.errors import UserError


def read(**given):
  values = flags.FlagValues()
  define_options(values)
  values(["options", *(f"--{name}={text}" for name, text in given.items())])
  return read_options(values)


def test_texts_become_values():
  options = read(steps="7,ssr1=2", sampler="dpmpp_2m", guidance="base=15:1", aug_snr="3", tile="ssr3=32x768x1280, tsr3=whole")
  assert options.steps == {OTHERS: 7, "ssr1": 2}
  assert (options.sampler, options.guidance, options.threshold, options.aug_snr) == ("dpmpp_2m", {"base": (15.0, 1.0)}, None, 3.0)
  assert options.tile == {"ssr3": (32, 768, 1280), "tsr3": (0, 0, 0)}


@pytest.mark.parametrize(
  "given, message",
  [
    (dict(steps="8.5"), "steps=8.5: expected a whole number"),
    (dict(steps="4,5"), "steps=4,5: two values for all stages, the second is 5; expected STAGE=VALUE,..."),
    (dict(guidance="strong"), "guidance=strong: expected a number or HIGH:LOW such as 15:1"),
    (dict(guidance="base=15:high"), "guidance=high: expected a number or HIGH:LOW such as 15:1"),
    (dict(aug_snr="inf"), "aug_snr=inf: expected a number"),
    (dict(tile="8"), "tile=8: expected FRAMESxHEIGHTxWIDTH such as 32x768x1280 (0: the whole axis), or whole"),
  ],
)
def test_texts_that_cannot_be_read(given, message):
  with pytest.raises(UserError) as error:
    read(**given)
  assert str(error.value) == message


def test_what_concerns_the_stages_that_are_left():
  assert left_of("4,base=64,ssr1=16", ["ssr1", "ssr2"]) == "4,ssr1=16"
