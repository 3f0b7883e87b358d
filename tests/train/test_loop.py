"""The loop: stops at the first non-finite loss, calls hooks, resumes its metrics."""

import dataclasses
import itertools
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import optax
import pytest

from ivid.spec.run import CheckpointSpec, TrainSpec
from ivid.steps import init_state
from ivid.train import loop, phases
from ivid.train.loop import Cost, Hook, Loop, NonFiniteLoss
from ivid.train.metrics import MetricWriter

SPEC = TrainSpec(steps=6, log_every=3, checkpoint=CheckpointSpec(every=2))


class Saved:
  """Keeps the steps and next indices that a checkpointer is asked to save, and what it is asked to protect."""

  def __init__(self):
    self.steps, self.protected = [], None

  def save(self, state, seen):
    self.steps.append((int(state.step), seen.next_index))
    self.flops = seen.flops

  def protect(self, step):
    self.protected = max((saved for saved, _ in self.steps if saved <= step), default=None) if step is not None else None
    return self.protected and pathlib.Path(f"checkpoints/{self.protected}")

  def wait(self):
    self.waited = True


def run(tmp_path, losses, *, hooks=(), stop=lambda: False, before=lambda: None, norms=(), spec=SPEC, saved=None, **options):
  values, lengths = iter(losses), iter(norms)

  def step(state, batch, key):
    before()
    return state.replace(step=state.step + 1), {"loss": jnp.asarray(batch), "grad_norm": jnp.asarray(next(lengths, 1.0))}

  saved = saved or Saved()
  writer = MetricWriter(tmp_path)
  made = Loop(phases.resolve(spec)[0], spec.total_steps, step, values, jax.random.key(0), saved, writer, hooks, **options)
  try:
    made.run(init_state({}, optax.sgd(1.0)), stop=stop)
  finally:
    writer.close()
  return saved


def rows(tmp_path):
  return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_logs_means_saves_and_calls_hooks(tmp_path):
  called = []
  hook = Hook(3, lambda step, state: called.append(step) or {"eval/loss": 0.5})
  saved = run(tmp_path, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], hooks=[hook])
  assert saved.steps == [(2, 32), (4, 64), (6, 96), (6, 96)] and saved.waited
  assert called == [3, 6]
  losses = [(row["step"], row["train/loss"]) for row in rows(tmp_path) if "train/loss" in row]
  assert losses == [(3, 2.0), (6, 5.0)]
  assert [row["step"] for row in rows(tmp_path) if "eval/loss" in row] == [3, 6]


def test_speed_leaves_out_the_first_update_and_what_hooks_take(tmp_path, monkeypatch):
  """By a clock that an update moves by a second, the first by a hundred, and a hook by a thousand."""
  now = [0.0]
  monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
  took = itertools.chain([100.0], itertools.repeat(1.0))

  def pass_time(seconds=None):
    now[0] += next(took) if seconds is None else seconds

  hook = Hook(2, lambda step, state: pass_time(1000.0) or {})
  cost = Cost(flops=3.0, before=10.0, peak=12.0)
  saved = run(tmp_path, [1.0] * 8, hooks=[hook], before=pass_time, cost=cost, rate=lambda step: 0.5**step)
  first, second = (row for row in rows(tmp_path) if "train/loss" in row)
  for row, step in ((first, 3), (second, 6)):
    assert row["perf/steps_per_second"] == pytest.approx(1.0) and row["perf/clips_per_second"] == pytest.approx(16.0)
    assert row["perf/mfu"] == pytest.approx(0.25) and row["train/flops"] == 10.0 + 3.0 * step
    assert row["train/learning_rate"] == 0.5 ** (step - 1)  # of the update that was made
  assert saved.flops == 10.0 + 3.0 * 6


def test_arithmetic_that_is_not_known_is_left_out(tmp_path):
  saved = run(tmp_path, [1.0] * 8, cost=Cost(flops=3.0, before=None))
  assert not any("train/flops" in row or "perf/mfu" in row for row in rows(tmp_path)) and saved.flops is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_stops_at_the_first_loss_that_is_not_finite(tmp_path, bad):
  with pytest.raises(NonFiniteLoss, match="step 4 is not finite"):
    run(tmp_path, [1.0, 1.0, 1.0, bad, 1.0, bad, 1.0, 1.0])


@pytest.mark.parametrize(
  ("norms", "kept", "message"),
  [
    ([1.0] * 30, 22, "the gradient's norm had not left its band before: the last checkpoint from before is checkpoints/22"),
    ([1.0] * 14 + [50.0] + [1e9] * 20, 14, "the gradient's norm left its band (up to 10) in step 15: the last checkpoint from before is"),
    ([1.0] * 11 + [50.0] + [1.0] * 20, 10, "left its band (up to 10) in step 12"),  # once, and not long ago
    ([1.0, 9.0] * 15, 22, "had not left its band"),
  ],
)
def test_what_is_said_and_kept_of_a_run_that_diverges(tmp_path, norms, kept, message):
  spec, saved = dataclasses.replace(SPEC, steps=40), Saved()
  with pytest.raises(NonFiniteLoss) as error:
    run(tmp_path, [1.0] * 20 + [2.0, 3.5, 4e6, float("nan")] + [1.0] * 20, norms=norms, spec=spec, saved=saved)
  assert saved.steps[-1][0] == 22 and saved.protected == kept
  said = str(error.value)
  assert said.startswith("step 24 is not finite (loss=nan, grad_norm=") and "\n" not in said
  assert "before it step 21 loss=2, grad_norm=" in said and "step 23 loss=4e+06, grad_norm=" in said
  assert message in said and (f"; to go on from it: ivid train --resume_step={kept}, or move later ones away" in said) == (kept < 22)


def test_no_checkpoint_from_before(tmp_path):
  with pytest.raises(NonFiniteLoss, match="stopped; the gradient's norm had not left its band before: no checkpoint is from before$"):
    run(tmp_path, [float("nan")] * 8)


def test_stop_saves_where_it_is(tmp_path):
  asked = iter([False, False, False, True])
  saved = run(tmp_path, [1.0] * 8, stop=lambda: next(asked))
  assert saved.steps[-1] == (3, 48)


def test_resumed_metrics_drop_what_the_checkpoint_does_not_know(tmp_path):
  writer = MetricWriter(tmp_path)
  for step in (1, 2, 3):
    writer.write_scalars(step, {"train/loss": step})
  writer.close()
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "tra')  # a process killed while writing
  writer = MetricWriter(tmp_path, from_step=2)
  writer.write_scalars(3, {"train/loss": 30})
  writer.close()
  assert [(row["step"], row["train/loss"]) for row in rows(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_spec_refuses_nonsense():
  with pytest.raises(ValueError, match="train.batch_size=10 is no multiple of train.accumulation=4"):
    dataclasses.replace(SPEC, batch_size=10, accumulation=4)
