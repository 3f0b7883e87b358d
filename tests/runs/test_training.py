"""A run's hooks."""

import dataclasses
import types

import pytest

from ivid.config import load_run
from ivid.runs import curves
from ivid.runs.training import _Part
from ivid.stage import Stage


@pytest.mark.parametrize(("changes", "want"), [({}, []), (dict(fvd_every=7), [7]), (dict(adherence_every=5, fvd_every=7), [5, 7])])
def test_a_hook_for_each_curve_that_is_wanted(monkeypatch, changes, want):
  run = load_run("tiny:base")
  run = dataclasses.replace(run, train=dataclasses.replace(run.train, eval_every=0, **changes))
  for name, kind in curves.CURVES.items():
    made = lambda stage, run, encoder, name=name: [lambda step, state: {f"{name}/{encoder}": step}]  # noqa: E731
    monkeypatch.setitem(curves.CURVES, name, dataclasses.replace(kind, make=made))
  course, phase = types.SimpleNamespace(encoder="the run's"), types.SimpleNamespace(train=run.train)
  hooks = _Part(course, run, Stage(run.cascade.stage("base")), phase, None).hooks(None)
  assert [hook.every for hook in hooks] == want
  assert [hook.call(3, None) for hook in hooks] == [{f"{name}/the run's": 3} for name in ("adherence", "fvd")[2 - len(want) :]]
