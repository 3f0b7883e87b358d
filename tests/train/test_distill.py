"""The course of a distillation, and its step on every stage of the configs."""

import dataclasses

import jax
import pytest

from ivid.config import load_run
from ivid.parallel.mesh import make_mesh
from ivid.spec.distill import DistillSpec
from ivid.spec.errors import UserError
from ivid.spec.phase import PhaseSpec
from ivid.spec.sampling import GuidanceSpec, SamplerKind, SamplingSpec, StudentSpec
from ivid.spec.stage import LossWeight
from ivid.train import phases
from ivid.train.distill import check_teacher, phase_run, plan_phases, student_stage
from ivid.train.run import Lesson, make_training

TINY = load_run("tiny:base")
BASE = TINY.cascade.stage("base")
DDIM = SamplerKind.DDIM


def student(steps, sampler=DDIM, w=(0.0, 4.0)):
  """The base as a student."""
  made = StudentSpec("a" * 64, steps, sampler, *w)
  return dataclasses.replace(BASE, student=made, sampling=SamplingSpec(sampler=sampler, steps=steps or 32))


def names(phases):
  return [(phase.name, phase.taught_by, phase.teacher_steps) for phase in phases]


def test_guidance_then_halvings_each_taught_by_the_one_before():
  spec = DistillSpec(teacher_steps=16, final_steps=2, stochastic=(4,), w_max=4.0, updates=5, last_updates=9, guidance_updates=7)
  phases = plan_phases(spec, BASE)
  assert names(phases) == [
    ("guidance", "", 16),
    ("ddim_0008", "guidance", 16),
    ("ddim_0004", "ddim_0008", 8),
    ("stochastic_0004", "ddim_0004", 4),
    ("ddim_0002", "ddim_0004", 4),
  ]
  assert [phase.updates for phase in phases] == [7, 5, 5, 5, 9]
  assert [phase.student.steps for phase in phases] == [0, 8, 4, 4, 2]
  assert phases[3].student.sampler is SamplerKind.STOCHASTIC


def test_without_guidance_none_is_distilled():
  assert names(plan_phases(DistillSpec(teacher_steps=4, final_steps=1), BASE)) == [("ddim_0002", "", 4), ("ddim_0001", "ddim_0002", 2)]


def test_a_student_goes_on_where_it_is():
  spec = DistillSpec(teacher_steps=32, final_steps=2, w_max=2.0)
  assert names(plan_phases(spec, student(8))) == [("ddim_0004", "", 8), ("ddim_0002", "ddim_0004", 4)]
  assert plan_phases(spec, student(0))[0].name == "ddim_0016"


@pytest.mark.parametrize(
  ("teacher", "message"),
  [
    (student(2), "distilled to 2 steps already: distill.final_steps=2, expected fewer than 2"),
    (student(8, SamplerKind.STOCHASTIC), "for the stochastic sampler: expected one for ddim"),
    (student(8, w=(0.0, 1.0)), "knows guidance from 0 to 1: distill.w_min=0, w_max=2 is not within"),
  ],
)
def test_teachers_that_cannot_teach(teacher, message):
  with pytest.raises(ValueError, match=message):
    plan_phases(DistillSpec(teacher_steps=32, final_steps=2, w_max=2.0), teacher)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    (dict(teacher_steps=48), "distill.teacher_steps=48: expected a power of two, the nearest is 64"),
    (dict(teacher_steps=8, final_steps=8), "distill.final_steps=8: expected fewer than teacher_steps=8"),
    (dict(w_min=3.0, w_max=1.0), "w_min=3.0, w_max=1.0 is an empty range"),
    (dict(stochastic=(3,)), "distill.stochastic: 3 steps; expected a power of two from 8 to 128"),
    (dict(updates=0), "distill.updates=0: expected 1 or more"),
    (dict(loss_weight="x"), "distill.loss_weight"),
  ],
)
def test_specs_that_do_not_hold_together(values, message):
  from ivid.spec.convert import from_dict

  with pytest.raises(ValueError, match=message):
    from_dict(DistillSpec, values, "distill")


def test_a_teacher_of_another_stage_is_refused():
  check_teacher(student(8), BASE)
  with pytest.raises(ValueError, match="--teacher is of another stage than tsr1: "):
    check_teacher(BASE, TINY.cascade.stage("tsr1"))


def test_a_student_is_sampled_in_the_way_it_was_made_for():
  phase = plan_phases(DistillSpec(teacher_steps=8, final_steps=4, stochastic=(4,), w_max=4.0), BASE)[-1]
  made = student_stage(BASE, phase, "b" * 64)
  assert (made.sampling.sampler, made.sampling.steps, made.student.teacher) == (SamplerKind.STOCHASTIC, 4, "b" * 64)
  with pytest.raises(ValueError, match="stage base was distilled for 4 steps: steps=8, expected 4"):
    dataclasses.replace(made, sampling=dataclasses.replace(made.sampling, steps=8))
  with pytest.raises(ValueError, match="was distilled for the stochastic sampler: sampler=ddim, expected stochastic"):
    dataclasses.replace(made, sampling=dataclasses.replace(made.sampling, sampler=DDIM))
  with pytest.raises(ValueError, match="was distilled for guidance from 0 to 4: guidance=15 is outside"):
    dataclasses.replace(made, sampling=dataclasses.replace(made.sampling, guidance=GuidanceSpec(weight=1.0, low=15.0)))


def test_a_stage_that_was_not_distilled_has_no_stochastic_sampler():
  with pytest.raises(ValueError, match="stage base is not distilled: sampler=stochastic, expected ddim"):
    dataclasses.replace(BASE, sampling=SamplingSpec(sampler=SamplerKind.STOCHASTIC))


@pytest.mark.parametrize("config", ["nano", "doubling"])
def test_every_stage_of_the_configs_has_its_students(config):
  for name in load_run(f"{config}:base").cascade.stage_names:
    run = load_run(f"{config}:{name}")
    stage = run.cascade.stage(name)
    phases = plan_phases(run.distill, stage)
    assert phases[-1].student.steps == run.distill.final_steps
    for phase in phases:
      assert student_stage(stage, phase, "c" * 64).student.w_max == run.distill.w_max
      assert phase_run(run, phase).train.steps == phase.updates


@pytest.mark.parametrize(("stage_name", "place"), [("base", 0), ("ssr5", 0), ("tsr5", -1)])
def test_the_step_of_the_distiller_is_traced_whole(stage_name, place):
  run = load_run(f"doubling:{stage_name}", ["train.batch_size=8", "cascade.text.max_tokens=8"])
  stage = run.cascade.stage(stage_name)
  phases = plan_phases(run.distill, stage)
  teacher = stage if place == 0 else student_stage(stage, phases[0], "")
  made = student_stage(stage, phases[place], "c" * 64)
  lesson = Lesson(teacher, run.distill.loss_weight)
  train = phase_run(run, phases[place]).train
  training = make_training(made, train, make_mesh(run.mesh), max_tokens=8, lesson=lesson)
  state, metrics = jax.eval_shape(training.step.fn, *training.step.args)
  assert metrics["loss"].shape == () and jax.tree.structure(state) == jax.tree.structure(training.state)


def test_guidance_has_phases_a_rate_and_all_of_its_updates():
  run = load_run("nano:base")
  guidance, halving = plan_phases(run.distill, run.cascade.stage("base"))[:2]
  assert (guidance.name, guidance.updates) == ("guidance", 6750) and halving.name == "ddim_0016"
  images, clips = phases.resolve(phase_run(run, guidance).train)
  assert (images.train.frames, images.train.batch_size, images.train.optimizer.learning_rate) == (1, 32, 2e-3)
  assert (clips.first_index, clips.end, clips.train.frames) == (200_000, 6750, 0)
  (whole,) = phases.resolve(phase_run(run, halving).train)
  assert (whole.train.steps, whole.train.batch_size, whole.train.optimizer.learning_rate) == (500, 8, 5e-4)


def test_guidance_may_end_before_its_phases_do():
  phase = PhaseSpec("images", steps=10)
  assert DistillSpec(guidance_phases=(phase,), guidance_updates=4).total_guidance_updates == 4
  for values, message in (
    (dict(guidance_updates=11), "distill.guidance_updates=11: expected at most the 10 of distill.guidance_phases"),
    (dict(guidance_phases=(phase, phase)), "distill.guidance_phases: names images, images"),
    (dict(guidance_learning_rate=0.0), "distill.guidance_learning_rate=0: expected a positive number"),
    (dict(guidance_loss_weight=LossWeight.EPS), "distill.guidance_loss_weight=eps: expected x, truncated_snr or v"),
  ):
    with pytest.raises(UserError, match=message):
      DistillSpec(**(dict(guidance_phases=(phase,)) | values))
