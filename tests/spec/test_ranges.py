"""Every number of every spec has its range, which its class holds."""

import dataclasses
import importlib
import inspect
import math
import pkgutil
import typing

import pytest

import ivid.spec
from ivid.config import load_run
from ivid.spec import clip, distill, options, phase, record, run, sampling, stage
from ivid.spec.errors import UserError
from ivid.spec.ranges import Range, _range, check_ranges

NANO = load_run("nano:base").cascade
STAGE = NANO.stage("ssr1")
EXAMPLES = {
  clip.ClipShape: STAGE.output,
  stage.StageSpec: STAGE,
  stage.LowresSpec: STAGE.lowres,
  stage.UNetSpec: STAGE.unet,
  sampling.StudentSpec: sampling.StudentSpec("abc"),
  phase.PhaseSpec: phase.PhaseSpec("one", 3),
  record.BatchRecord: record.BatchRecord(2, 1),
  record.StageRecord: record.StageRecord("base", "abc", sampling.SamplingSpec(), None),
  record.GivenSource: record.GivenSource("clip.mp4", "abc", (0,)),
  record.GivenRecord: record.GivenRecord((), record.GivenMethod.REPLACEMENT),
}
CHECKED_BY_OTHERS = {stage.LevelSpec}  # by the network whose levels they are, which knows the place
NO_SPECS = {"Range", "ArraySpec", "CaptionLayout", "View"}  # what follows from specs


def spec_classes():
  found = []
  for module in pkgutil.iter_modules(ivid.spec.__path__):
    module = importlib.import_module(f"ivid.spec.{module.name}")
    found += [cls for _, cls in inspect.getmembers(module, dataclasses.is_dataclass) if cls.__module__ == module.__name__]
  return [cls for cls in found if cls.__name__ not in NO_SPECS and not cls.__name__.startswith("_")]


def numbers(hint):
  """Whether a hint is of numbers, alone, in a tuple or beside None."""
  if typing.get_origin(hint) is typing.Annotated:
    hint = typing.get_args(hint)[0]
  return hint in (int, float) or (typing.get_origin(hint) is not dict and any(map(numbers, typing.get_args(hint))))


FIELDS = [
  (cls, name, hint) for cls in spec_classes() for name, hint in typing.get_type_hints(cls, include_extras=True).items() if numbers(hint)
]


def test_there_are_numbers():
  assert len(FIELDS) > 100


@pytest.mark.parametrize("cls, name, hint", FIELDS, ids=[f"{cls.__name__}.{name}" for cls, name, _ in FIELDS])
def test_every_number_has_a_range_that_its_class_holds(cls, name, hint):
  allowed = _range(hint)
  assert allowed is not None, f"{cls.__name__}.{name}: expected Annotated[..., Range(...)]"
  example = EXAMPLES.get(cls)
  if example is None and cls not in CHECKED_BY_OTHERS:
    try:
      example = cls()
    except TypeError:
      assert cls is record.ClipRecord  # tests/faults/test_doors.py
      return
  for wrong in (allowed.low - 1, allowed.high + 1, math.nan):
    if not math.isinf(wrong):
      value = (wrong,) if typing.get_origin(hint) is tuple else wrong
      if cls in CHECKED_BY_OTHERS:
        level = dataclasses.replace(STAGE.unet.levels[0], **{name: value})
        with pytest.raises(UserError, match=rf"^unet.levels\[0\].{name}=.*: expected "):
          dataclasses.replace(STAGE.unet, levels=(level,))
        continue
      with pytest.raises(UserError, match=f"{name}=.*: expected "):
        dataclasses.replace(example, **{name: value})


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: dataclasses.replace(STAGE.unet, head_dim=0), "^unet.head_dim=0: expected 1 or more"),
    (lambda: dataclasses.replace(NANO.text, head_dim=0), "^text.head_dim=0: expected 1 or more"),
    (lambda: dataclasses.replace(NANO.text, layers=10**9), "^text.layers=1000000000: expected at most 256"),
    (lambda: dataclasses.replace(NANO.text, vocab_size=10**9), "^text.vocab_size=1000000000: expected at most 4194304"),
    (lambda: run.OptimizerSpec(learning_rate=1e400), "^train.optimizer.learning_rate=inf: expected at most 1"),
    (lambda: run.TrainSpec(eval_batches=-1), "^train.eval_batches=-1: expected 0 or more"),
    (lambda: run.TrainSpec(num_samples=0), "^train.num_samples=0: expected 1 or more"),
    (lambda: run.TrainSpec(batch_size=10**9), "^train.batch_size=1000000000: expected at most 65536"),
    (lambda: run.DataSpec(paraphrase=math.nan), "^data.paraphrase=nan: expected 0 to 1"),
    (lambda: distill.DistillSpec(w_max=math.inf), "^distill.w_max=inf: expected at most"),
    (lambda: sampling.SamplingSpec(steps=10**9), "^sampling.steps=1000000000: expected at most 10000"),
    (lambda: clip.ClipShape(8, 12, 20, math.nan), "^clip fps=nan: expected a positive number"),
    (lambda: clip.ClipShape(10**400, 12, 20, 1.0), "^clip frames=1000.*: expected at most"),
  ],
)
def test_values_beyond(make, message):
  with pytest.raises(UserError, match=message):
    make()


def test_a_range():
  open_ended = Range(0, 1, above=True, below=True)
  assert 0.5 in open_ended and 0 not in open_ended and 1 not in open_ended and math.nan not in Range(-math.inf, math.inf)
  assert run.OptimizerSpec(clip_norm=math.inf).clip_norm == math.inf  # cuts nothing


def test_numbers_of_flags():
  """Every flag of a number has a range: in options.NUMBERS, or that of the field that it is."""
  from absl import flags

  from ivid import bin as binaries
  from ivid.spec.hosts import Hosts
  from ivid.spec.prepare import PrepareSpec
  from ivid.spec.real import RealClips
  from ivid.spec.retrieval import RetrievalTraining
  from ivid.spec.session import Session

  fields = {field.name for spec in (Hosts, PrepareSpec, RealClips, RetrievalTraining, Session) for field in dataclasses.fields(spec)}
  for module in pkgutil.iter_modules(binaries.__path__):
    module = importlib.import_module(f"ivid.bin.{module.name}")
    if hasattr(module, "define_flags"):
      values = flags.FlagValues()
      module.define_flags(values)
      have = [name for name in values if values[name].flag_type() in ("int", "float")]
      assert [name for name in have if name not in options.NUMBERS and name not in fields] == [], module
  with pytest.raises(UserError, match="^--num_samples=1000000000: expected at most 100000"):
    options.check_numbers({"num_samples": 10**9})


def test_checks_items_of_lists():
  @dataclasses.dataclass(frozen=True)
  class Spec:
    values: tuple[stage.Logsnr, ...] = ()

  check_ranges(Spec((1.0, 2.0)), "")
  with pytest.raises(UserError, match="values=inf"):
    check_ranges(dataclasses.replace(Spec(), values=(1.0, math.inf)), "")
