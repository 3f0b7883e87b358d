"""Joining processes: what shows a cluster, and what is refused. Real processes: tests/launch/test_local.py."""

import os
import signal

import jax
import numpy as np
import pytest

from ivid.__main__ import main
from ivid.parallel import distributed, signals
from ivid.parallel.distributed import StopSignal, check_count, cluster_sign, join, on_host
from ivid.parallel.mesh import make_mesh
from ivid.parallel.sharding import batch_sharding, process_rows
from ivid.spec.hosts import Hosts
from ivid.spec.run import MeshSpec


@pytest.mark.parametrize(
  ("environment", "sign"),
  [
    ({}, None),
    ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_COORDINATOR_ADDRESS"),
    ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES"),
    ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n[1-4]"}, "SLURM_NTASKS"),
    ({"SLURM_NTASKS": "4"}, None),  # the batch script itself, without srun
    ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1"}, None),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE"),
    ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, "TPU_WORKER_HOSTNAMES"),
    ({"TPU_WORKER_HOSTNAMES": "t0,t1", "JAX_PLATFORMS": "cpu"}, None),
  ],
)
def test_what_shows_a_cluster(environment, sign, monkeypatch):
  monkeypatch.setattr(distributed.glob, "glob", lambda pattern: [])
  assert cluster_sign(environment) == sign


def test_chips_of_a_tpu_show_a_cluster(monkeypatch):
  monkeypatch.setattr(distributed.glob, "glob", lambda pattern: ["/dev/accel0"] if "accel" in pattern else [])
  monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: object())
  assert cluster_sign({}) == "/dev/accel0"
  assert cluster_sign({"JAX_PLATFORMS": "cpu"}) is None


@pytest.mark.parametrize(
  ("flags", "environment", "message"),
  [
    (["--multihost=onn"], {}, "--multihost=onn: did you mean 'on'?"),
    (["--heartbeat_seconds=1"], {}, "--heartbeat_seconds=1: expected 2 or more"),
    (["--expected_processes=2"], {}, "this process runs alone, --expected_processes=2: expected --multihost=on"),
    (["--multihost=off", "--expected_processes=2"], {"JAX_NUM_PROCESSES": "2"}, "this process runs alone, --expected_processes=2"),
    (["--expected_devices=16"], {}, "found 8 devices, expected 16 (--expected_devices=16)"),
    ([], {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, "JAX_COORDINATOR_ADDRESS not set: expected all of"),
    (
      [],
      dict.fromkeys(("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"), "two"),
      "JAX_NUM_PROCESSES=two: expected a whole",
    ),
    ([], {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2: expected 0 to 1"),
    (
      ["--expected_processes=4"],
      {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
      "found 2 processes, expected 4 (--expected_processes=4)",
    ),
    (["--workdir=s3://bucket/base"], {}, "--workdir=s3://bucket/base: expected a path, or gs://BUCKET/FOLDER"),
  ],
)
def test_refused_in_one_line_before_anything_is_made(flags, environment, message, monkeypatch, tmp_path, capsys):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  workdir = tmp_path / "run"
  for command in (["train"], ["distill", "--teacher=nano"]):
    assert main([*command, "--config=tiny:base", f"--workdir={workdir}", *flags]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]
  assert not workdir.exists()


def test_on_never_means_alone_unless_it_is_said(monkeypatch):
  monkeypatch.setattr(distributed, "_initialize", lambda hosts: None)  # joined, and nobody else was there
  with pytest.raises(ValueError, match="--multihost=on found one process alone: expected several, or --expected_processes=1"):
    join(Hosts(multihost="on"))
  join(Hosts(multihost="on", expected_processes=1, expected_devices=8))
  with pytest.raises(ValueError, match="found 1 process, expected 4"):
    join(Hosts(multihost="on", expected_processes=4))


def test_counts():
  check_count("device", 3, 0)
  check_count("device", 3, 3)
  with pytest.raises(ValueError, match=r"found 3 devices, expected 4 \(--expected_devices=4\)"):
    check_count("device", 3, 4)


@pytest.mark.parametrize("spec", [MeshSpec(), MeshSpec(data=2, fsdp=2, tensor=2), MeshSpec(data=1, fsdp=1, frames=8)])
def test_rows_of_this_process(spec):
  """All of them, once each, though devices along the other axes hold the same rows."""
  assert process_rows(make_mesh(spec), 8) == list(range(8))


def test_rows_need_not_be_neighbours(monkeypatch):
  """A host whose devices stand at places 1 and 4 of the data axis reads what lies there."""
  mesh = make_mesh(MeshSpec())
  held = batch_sharding(mesh).devices_indices_map((16,))
  mine = {device: held[device] for device in (mesh.devices.flat[1], mesh.devices.flat[4])}
  monkeypatch.setattr(jax.sharding.NamedSharding, "addressable_devices_indices_map", lambda self, shape: mine)
  assert process_rows(mesh, 16) == [2, 3, 8, 9]


def test_whole_arrays_from_shards():
  values = np.arange(16.0).reshape(8, 2)
  found = on_host({"a": jax.device_put(values, batch_sharding(make_mesh(MeshSpec()))), "b": values})
  assert all(isinstance(leaf, np.ndarray) for leaf in found.values())
  np.testing.assert_array_equal(found["a"], values)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_outlives_the_loop_that_it_reached(number):
  """A signal while a student is compared with its teacher stops the next student's training."""
  before = signal.getsignal(number)
  with signals.listening():
    first = StopSignal(make_mesh(MeshSpec()))
    assert not first() and not first.agreed()
    os.kill(os.getpid(), number)
    assert first() and first.agreed() and StopSignal(make_mesh(MeshSpec()))()
  assert signal.getsignal(number) is before and not signals.asked()
