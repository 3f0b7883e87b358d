"""A trace of a few updates opens, and has their work in it."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from ivid.spec.errors import UserError
from ivid.train.profiling import Profiler


def traced(tmp_path, steps, first=0, **options):
  """Steps that were in the trace, by the names of what they ran."""
  with Profiler(tmp_path, steps, **options) as profiler:
    for step in range(first, 6):
      if profiler.begins(step):
        profiler.begin()
      with jax.profiler.TraceAnnotation(f"update_{step}"):
        jnp.ones(3).block_until_ready()
      if profiler.ends(step + 1):
        profiler.close()
  return sorted((tmp_path / "profile").glob("plugins/profile/*/*"))


def names(path):
  return {event.name for plane in ProfileData.from_file(str(path)).planes for line in plane.lines for event in line.events}


def test_the_trace_has_these_updates_and_opens(tmp_path):
  files = traced(tmp_path, range(2, 4))
  (space,) = (path for path in files if path.name.endswith(".xplane.pb"))
  (events,) = (path for path in files if path.name.endswith(".trace.json.gz"))
  found = {name for name in names(space) if name.startswith("update_")}
  assert found == {"update_2", "update_3"}
  told = json.loads(gzip.decompress(events.read_bytes()))["traceEvents"]
  assert {"update_2", "update_3"} <= {event.get("name") for event in told}


def test_a_run_that_ends_or_begins_inside_keeps_what_there_is(tmp_path):
  ended = [path for path in traced(tmp_path / "ended", range(5, 9)) if path.name.endswith(".pb")]
  assert "update_5" in names(ended[0])
  resumed = [path for path in traced(tmp_path / "resumed", range(2, 4), first=3) if path.name.endswith(".pb")]
  assert {name for name in names(resumed[0]) if name.startswith("update_")} == {"update_3"}


@pytest.mark.parametrize("options", [dict(steps=None), dict(steps=range(7, 9)), dict(steps=range(2, 4), active=False)])
def test_no_trace(tmp_path, options):
  assert not traced(tmp_path, **options) and not (tmp_path / "profile").exists()


def test_a_trace_that_cannot_be_written(tmp_path):
  (tmp_path / "profile").write_text("in the way")
  with pytest.raises(UserError, match="^cannot write a trace in .*profile: File exists$"):
    Profiler(tmp_path, range(3)).begin()
