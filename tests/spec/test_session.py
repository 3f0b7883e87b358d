"""What a command says beside its run."""

import pytest

from ivid.spec.errors import UserError
from ivid.spec.session import Session, Watch


def test_what_is_read():
  watch = Watch(trackers="wandb, tensorboard,wandb", profile_steps="100:105")
  assert watch.tracker_names == ("wandb", "tensorboard") and watch.profiled == range(100, 105)
  assert Watch().tracker_names == ("tensorboard",) and Watch().profiled is None and Watch(trackers="").tracker_names == ()
  watch.check_profiled(101)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(trackers="tensorbord"), r"--trackers=tensorbord: did you mean 'tensorboard'\?"),
    (dict(profile_steps="100"), r"--profile_steps=100: expected two steps, such as 100:105"),
    (dict(profile_steps="-1:5"), r"--profile_steps=-1:5: expected two steps"),
    (dict(profile_steps="5:5"), r"--profile_steps=5:5: expected a later step after the colon, at most \d+, such as 5:10"),
    (dict(profile_steps="9:" + "9" * 19), r"at most \d+, such as 9:14"),
    (dict(max_minutes=-1.0), r"--max_minutes=-1: expected a positive number, or 0 for no limit"),
    (dict(resume_step=-1), r"--resume_step=-1: expected 0 or more"),
  ],
)
def test_what_is_refused(fields, message):
  with pytest.raises(UserError, match=message):
    Session(**fields)


def test_a_trace_after_the_end():
  with pytest.raises(UserError, match="--profile_steps=100:105: the run has 50 steps: expected earlier ones, the nearest are 45:50"):
    Watch(profile_steps="100:105").check_profiled(50)
