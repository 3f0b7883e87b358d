"""Which share is this process's: by a flag, or by what the environment says."""

import pytest

from ivid.parallel.shares import find_share
from ivid.spec.errors import UserError
from ivid.spec.hosts import Shares

JAX = dict(JAX_PROCESS_ID="1", JAX_NUM_PROCESSES="4")
SLURM = dict(SLURM_PROCID="2", SLURM_NTASKS="8", SLURM_STEP_NODELIST="a,b")
TPU = dict(TPU_WORKER_ID="1", TPU_WORKER_HOSTNAMES="a,b")


@pytest.mark.parametrize(
  ("options", "environment", "share"),
  [
    (dict(), {}, None),
    (dict(process="3/4"), JAX, (3, 4)),
    (dict(process="0/1"), {}, (0, 1)),
    (dict(), JAX, (1, 4)),
    (dict(), JAX | SLURM | TPU, (1, 4)),
    (dict(), SLURM, (2, 8)),
    (dict(), {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}, None),
    (dict(), dict(OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="3"), (0, 3)),
    (dict(), TPU, (1, 2)),
    (dict(multihost="off"), JAX, None),
    (dict(), dict(JAX_PROCESS_ID="0", JAX_NUM_PROCESSES="1"), None),
    (dict(multihost="on", expected_processes=1), dict(JAX_PROCESS_ID="0", JAX_NUM_PROCESSES="1"), (0, 1)),
    (dict(multihost="on", expected_processes=4), JAX, (1, 4)),
  ],
)
def test_who_it_is(options, environment, share):
  assert find_share(Shares(**options), environment) == share


def test_devices_are_counted_in_all_processes():
  import jax

  have = jax.local_device_count()
  assert find_share(Shares(expected_devices=4 * have), JAX) == (1, 4)
  with pytest.raises(UserError, match=rf"found {4 * have} devices, expected {4 * have + 1} \(--expected_devices={4 * have + 1}\)"):
    find_share(Shares(expected_devices=4 * have + 1), JAX)


@pytest.mark.parametrize(
  ("options", "environment", "message"),
  [
    (dict(multihost="on"), {}, "--multihost=on: no JAX_PROCESS_ID or SLURM_PROCID .* says which process this is: expected launch/"),
    (dict(multihost="on", process="0/2"), {}, "--multihost=on beside --process=0/2: expected one of them"),
    (dict(process="0/2", expected_processes=3), {}, r"found 2 processes, expected 3 \(--expected_processes=3\)"),
    (dict(expected_processes=2), {}, "found 1 process, expected 2"),
    (dict(), dict(JAX_PROCESS_ID="4", JAX_NUM_PROCESSES="4"), "JAX_PROCESS_ID=4, JAX_NUM_PROCESSES=4: expected a number from 0"),
    (dict(), dict(JAX_PROCESS_ID="a", JAX_NUM_PROCESSES="4"), "JAX_PROCESS_ID=a, JAX_NUM_PROCESSES=4: expected a number"),
    (dict(multihost="onn"), {}, "--multihost=onn: did you mean 'on'"),
  ],
)
def test_bad_input_is_one_line(options, environment, message):
  with pytest.raises(UserError, match=message) as caught:
    find_share(Shares(**options), environment)
  assert "\n" not in str(caught.value)
