"""The launch scripts: what --dry_run prints, what they refuse, and host.sh with a stand-in for Python."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from ivid.measure.topology import TPU_FLAGS

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))
TRAIN = ["--", "train", "--config=nano:base", "--workdir=/mnt/ivid/a b"]
POD = ["--name=base", "--zone=us-east5-a", "--project=p"]
GKE = ["--cluster=c", "--zone=us-east5-a", "--project=p"]


def call(script, *args, **environment):
  runner = [sys.executable] if script.endswith(".py") else ["bash"]
  variables = {**os.environ, "PATH": "/usr/bin:/bin", **environment}  # where no gcloud, xpk or sbatch is
  return subprocess.run([*runner, str(LAUNCH / script), *args], capture_output=True, text=True, env=variables, timeout=60)


def dry(script, *args):
  """Words of each command that a dry run prints."""
  split = args.index("--") if "--" in args else len(args)
  done = call(script, *args[:split], "--dry_run", *args[split:])
  assert done.returncode == 0, done.stderr
  return [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("launch:")]


@pytest.mark.parametrize(
  ("kind", "chips", "hosts"),
  [("v5p-256", 128, 32), ("v5p-8", 4, 1), ("v4-64", 32, 8), ("v5litepod-16", 16, 4), ("v6e-8", 8, 1), ("v6e-1", 1, 1)],
)
def test_a_pod_expects_the_slices_hosts_and_chips(kind, chips, hosts):
  (line,) = dry("tpu_pod.sh", "run", *POD, f"--type={kind}", *TRAIN)
  assert line[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "base"] and "--worker=all" in line
  remote = shlex.split(line[-1].removeprefix("--command="))
  assert remote[-6:] == [*TRAIN[1:], "--multihost=on", f"--expected_processes={hosts}", f"--expected_devices={chips}"]
  assert remote[0] == "IVID_SHARED=/mnt/ivid" and remote[2:5] == ["bash", "ivid/launch/host.sh", "start"]


def test_a_pods_life():
  place = ["--zone=us-east5-a", "--project=p"]
  tpu = ["gcloud", "compute", "tpus", "tpu-vm"]
  (made,) = dry("tpu_pod.sh", "create", *POD, "--type=v5p-256", "--spot=1")
  assert made == [*tpu, "create", "base", *place, "--accelerator-type=v5p-256", "--version=v2-alpha-tpuv5", "--spot"]
  (queued,) = dry("tpu_pod.sh", "create", *POD, "--type=v6e-16", "--queued=1")
  assert queued[3:7] == ["queued-resources", "create", "base", "--node-id=base"] and queued[-1] == "--runtime-version=v2-alpha-tpuv6e"
  packed, copied, installed = dry("tpu_pod.sh", "setup", *POD, "--bucket=my-bucket")
  assert packed[0] == "tar" and "--exclude=./.git" in packed
  assert copied[:5] == [*tpu, "scp"] and copied[5] == packed[packed.index("-czf") + 1] and copied[-1] == "--worker=all"
  assert installed[-1].endswith("bash ivid/launch/setup_host.sh my-bucket /mnt/ivid")
  for action, remote in (("logs", "log"), ("stop", "stop")):
    (line,) = dry("tpu_pod.sh", action, *POD)
    assert line[-1] == f"--command=bash ivid/launch/host.sh {remote}"
    assert line[-2] == ("--worker=0" if action == "logs" else "--worker=all")
  assert [line[4] for line in dry("tpu_pod.sh", "status", *POD)] == ["describe", "ssh"]
  assert dry("tpu_pod.sh", "delete", *POD) == [[*tpu, "delete", "base", *place, "--quiet"]]


def test_setting_up_a_host(tmp_path):
  done = call("setup_host.sh", "my-bucket", "/mnt/ivid", "--dry_run", HOME=str(tmp_path))
  assert done.returncode == 0, done.stderr
  lines = [shlex.split(line) for line in done.stdout.splitlines()]
  assert any(line[-1].endswith("[cloud,tpu]") and "install" in line for line in lines)
  assert ["gcsfuse", "--implicit-dirs", "--metadata-cache-ttl-secs=0", "my-bucket", "/mnt/ivid"] in lines
  assert not list(tmp_path.iterdir())


def test_gke():
  made, attached = dry("gke.sh", "create", *GKE, "--type=v5p-256", "--bucket=b", "--reservation=r")
  assert made[:3] == ["xpk", "cluster", "create"] and {"--tpu-type=v5p-256", "--num-slices=1", "--reservation=r"} <= set(made)
  assert attached[:4] == ["xpk", "storage", "attach", "ivid"] and {"--bucket=b", "--mount-point=/mnt/ivid"} <= set(attached)
  (line,) = dry("gke.sh", "run", *GKE, "--name=base", "--type=v5p-256", *TRAIN)
  assert line[:3] == ["xpk", "workload", "create"] and {"--workload=base", "--storage=ivid", "--max-restarts=3"} <= set(line)
  remote = shlex.split(line[-1].removeprefix("--command="))
  assert remote[-6:] == [*TRAIN[1:], "--multihost=on", "--expected_processes=32", "--expected_devices=128"]
  assert dry("gke.sh", "stop", *GKE, "--name=base")[0][:3] == ["xpk", "workload", "delete"]
  assert dry("gke.sh", "logs", *GKE, "--name=base")[0][:2] == ["kubectl", "logs"]
  assert dry("gke.sh", "status", *GKE)[0][:3] == ["xpk", "workload", "list"]
  assert dry("gke.sh", "delete", *GKE)[0][:3] == ["xpk", "cluster", "delete"]


def test_slurm():
  (line,) = dry("slurm.sh", "run", "--nodes=4", "--gpus=8", "--partition=gpu", *TRAIN)
  assert line[0] == "sbatch"
  assert {"--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--signal=TERM@600", "--requeue", "--partition=gpu"} <= set(line)
  step = shlex.split(line[-1].removeprefix("--wrap="))
  assert step[0] == "srun" and {str(LAUNCH / "host.sh"), "--platform=gpu", "--cpus-per-task=8"} <= set(step)
  assert step[-6:] == [*TRAIN[1:], "--multihost=on", "--expected_processes=32", "--expected_devices=32"]
  assert dry("slurm.sh", "stop", "--name=base") == [["scancel", "--signal=TERM", "--name=base", "--me"]]
  assert dry("slurm.sh", "logs", "--name=base")[0][-1] == "base.log"
  assert dry("slurm.sh", "status")[0][0] == "squeue"


def test_local():
  lines = dry("local.py", "--processes=2", "--devices=4", "--coordinator=127.0.0.1:1234", *TRAIN)
  for index, line in enumerate(lines):
    assert line[:3] == ["JAX_COORDINATOR_ADDRESS=127.0.0.1:1234", "JAX_NUM_PROCESSES=2", f"JAX_PROCESS_ID={index}"]
    assert any(word.startswith("XLA_FLAGS=") and word.endswith("--xla_force_host_platform_device_count=4") for word in line)
    assert {"--multihost=on", "--expected_processes=2", "--expected_devices=8", "--workdir=/mnt/ivid/a b"} <= set(line)
  assert len(lines) == 2
  assert [line[3] for line in dry("local.py", *TRAIN)] == ["JAX_LOCAL_DEVICE_IDS=0", "JAX_LOCAL_DEVICE_IDS=1"]  # a GPU each


SHARES = [
  ["sample", "--prompts_file=/mnt/ivid/a b"],
  ["data", "embed", "--out=e"],
  ["data", "prepare", "--input=i"],
  ["evaluate", "--out=e"],
]


@pytest.mark.parametrize("command", SHARES)
def test_commands_with_shares_join_nobody(command):
  (pod,) = dry("tpu_pod.sh", "run", *POD, "--type=v5p-256", "--", *command)
  (gke,) = dry("gke.sh", "run", *GKE, "--name=base", "--type=v5p-256", "--", *command)
  (slurm,) = dry("slurm.sh", "run", "--nodes=4", "--gpus=8", "--", *command)
  assert "--kill-on-bad-exit=0" in shlex.split(slurm[-1].removeprefix("--wrap="))
  for line, start in ((pod, "--command="), (gke, "--command="), (slurm, "--wrap=")):
    remote = shlex.split(line[-1].removeprefix(start))
    assert remote[-len(command) - 5 : -3] == ["--processes=32", "--", *command]
    assert remote[-3:-1] == ["--multihost=on", "--expected_processes=32"] and remote[-1].startswith("--expected_devices=")
  lines = dry("local.py", "--processes=2", "--devices=1", "--", *command)
  for index, line in enumerate(lines):
    assert line[:2] == ["JAX_NUM_PROCESSES=2", f"JAX_PROCESS_ID={index}"] and not any("COORDINATOR" in word for word in line)
    assert line[-len(command) - 3 :] == [*command, "--multihost=on", "--expected_processes=2", "--expected_devices=2"]
    assert "JAX_PLATFORMS=cpu" in line
  assert len(lines) == 2
  assert [line[2] for line in dry("local.py", "--", *command)] == ["CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=1"]


@pytest.mark.parametrize(
  ("platform", "variables", "process", "devices"),
  [
    ("gpu", dict(SLURM_PROCID="9", SLURM_LOCALID="1", CUDA_VISIBLE_DEVICES="4,6"), "9/32", "6//"),
    ("gpu", dict(SLURM_PROCID="9", SLURM_LOCALID="1"), "9/32", "1//"),
    ("tpu", dict(TPU_WORKER_ID="3"), "3/32", "/1,1,1/2,2,1"),
    ("cpu", dict(SLURM_PROCID="0"), "0/32", "//"),
  ],
)
def test_a_host_finds_its_share(tmp_path, platform, variables, process, devices):
  shown = "$CUDA_VISIBLE_DEVICES/$TPU_PROCESS_BOUNDS/$TPU_CHIPS_PER_PROCESS_BOUNDS"
  told = "$JAX_PROCESS_ID/$JAX_NUM_PROCESSES"
  environment = stand_in(tmp_path, f'echo "$@" {told} >{tmp_path}/call; echo {shown} >>{tmp_path}/call')
  environment = {"CUDA_VISIBLE_DEVICES": "", **environment, **variables}
  done = call("host.sh", "run", f"--platform={platform}", "--processes=32", "--", "sample", "--out=o", **environment)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "call").read_text().splitlines() == [f"-m ivid sample --out=o {process}", devices]


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["tpu_pod.sh"], "the first argument is missing: expected one of create setup run"),
    (["tpu_pod.sh", "destroy"], "the first argument is destroy: expected one of create"),
    (["tpu_pod.sh", "create", "--nam=base"], "unknown flag --nam: expected one of"),
    (["tpu_pod.sh", "create", "base"], "base: expected --name=value"),
    (["tpu_pod.sh", "create", "--name=base"], "--zone is missing"),
    (["tpu_pod.sh", "create", *POD, "--type=v5p"], "--type=v5p: expected a type such as v5p-256"),
    (["tpu_pod.sh", "create", *POD, "--type=v5-256"], "--type=v5-256: expected v4-, v5p-"),
    (["tpu_pod.sh", "create", *POD, "--type=v5p-10"], "--type=v5p-10: there is no slice of this size"),
    (["tpu_pod.sh", "run", *POD, "--type=v5p-8"], "the command after -- is 'missing': expected train, distill, sample, evaluate"),
    (["gke.sh", "run", *GKE, "--name=a", "--type=v5p-8", "--", "bundle"], "the command after -- is 'bundle'"),
    (["slurm.sh", "run", "--", "data", "inspect"], "the command after -- is 'data inspect': expected train, distill, sample, evaluate"),
    (["slurm.sh", "run", "--nodes=two", *TRAIN], "--nodes=two: expected a positive whole number"),
    (["host.sh", "go"], "the first argument is go: expected one of run start"),
    (
      ["local.py", "--", "bundle"],
      "the command after -- is 'bundle': expected an ivid command of train, distill, sample, evaluate, data prepare",
    ),
    (["local.py", "--", "data", "inspect"], "the command after -- is 'data inspect': expected an ivid command of train, distill"),
    (["host.sh", "run", "--platform=cpu", "--processes=2", "--", "sample"], "which of the 2 processes this is"),
    (["local.py", "--processes=0", *TRAIN], "--processes=0 --devices=0: expected 1 or more processes"),
  ],
)
def test_wrong_input_is_one_line(args, message):
  done = call(*args)
  assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
  assert "Traceback" not in done.stderr


def stand_in(tmp_path, body):
  """A program that host.sh takes for Python."""
  path = tmp_path / "python"
  path.write_text(f"#!/bin/bash\n{body}\n")
  path.chmod(0o755)
  return dict(PYTHON=str(path), IVID_STATE=str(tmp_path / "state"), HOME=str(tmp_path))


def test_a_host_starts_again_what_died(tmp_path):
  environment = stand_in(tmp_path, f'echo "$@" >>{tmp_path}/calls; (( $(wc -l <{tmp_path}/calls) < 3 )) && kill -9 $$; exit 0')
  done = call("host.sh", "run", "--platform=cpu", "--pause=0", *TRAIN, **environment)
  assert done.returncode == 0, done.stdout + done.stderr
  assert (tmp_path / "calls").read_text().splitlines() == ["-m ivid train --config=nano:base --workdir=/mnt/ivid/a b"] * 3
  assert done.stdout.count("was ended by SIGKILL (kill -9, or out of memory)") == 2 and "the run ended well" in done.stdout
  shutil.rmtree(tmp_path / "state", ignore_errors=True)
  (tmp_path / "calls").unlink()
  done = call("host.sh", "run", "--platform=cpu", "--pause=0", "--restarts=1", *TRAIN, **environment)
  assert done.returncode == 137 and len((tmp_path / "calls").read_text().splitlines()) == 2


def test_a_host_stops_when_asked(tmp_path):
  environment = stand_in(tmp_path, "trap 'sleep 0.3; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done")
  log = tmp_path / "state" / "log"
  assert "started as process" in call("host.sh", "start", "--platform=cpu", *TRAIN, **environment).stdout
  deadline = time.monotonic() + 30
  while "up" not in (log.read_text() if log.exists() else ""):
    assert time.monotonic() < deadline
    time.sleep(0.02)
  pid = int((tmp_path / "state" / "pid").read_text())
  try:
    assert "a run is already in progress here" in call("host.sh", "start", "--platform=cpu", *TRAIN, **environment).stderr
    assert f"running as process {pid}" in call("host.sh", "status", **environment).stdout
    assert "asked the run to save and end" in call("host.sh", "stop", **environment).stdout
    while "the run ended well" not in log.read_text():
      assert time.monotonic() < deadline, log.read_text()
      time.sleep(0.02)
  finally:
    if "the run ended well" not in log.read_text():
      os.killpg(pid, signal.SIGKILL)
  assert "saved" in log.read_text()
  while "nothing runs here" not in call("host.sh", "stop", **environment).stdout:
    assert time.monotonic() < deadline


def test_every_flag_of_the_environment_has_its_reason():
  lines = (LAUNCH / "env.sh").read_text().splitlines()
  flags = [i for i, line in enumerate(lines) if line.strip().startswith("--xla")]
  assert len(flags) > 8
  assert all(lines[i - 1].strip().startswith("#") for i in flags)


def test_what_is_compiled_without_a_slice_has_the_flags_of_a_run_on_one():
  line = f'unset LIBTPU_INIT_ARGS; source {LAUNCH}/env.sh tpu && echo "$LIBTPU_INIT_ARGS"'
  assert subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.split() == list(TPU_FLAGS)


@pytest.mark.parametrize("platform", ["gpu", "cpu"])
def test_xla_knows_the_flags(platform):
  """XLA ends a process with a flag that it does not know; it knows those for GPUs on the CPU too."""
  line = f'source {LAUNCH}/env.sh {platform} && exec {sys.executable} -c "import jax; jax.devices()"'
  for more, good in (("", True), ("--xla_no_such_flag=1", False)):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": more}
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) is good, done.stderr


@pytest.mark.tpu
def test_the_tpu_compiler_knows_its_flags():
  program = """
import jax
from jax.experimental import topologies
device = topologies.get_topology_desc(platform="tpu", topology_name="v5p:2x2x1").devices[0]
x = jax.ShapeDtypeStruct((256, 256), "float32", sharding=jax.sharding.SingleDeviceSharding(device))
jax.jit(lambda x: x @ x).lower(x).compile()
"""
  quiet = dict(TPU_ACCELERATOR_TYPE="v5p-8", TPU_WORKER_HOSTNAMES="localhost", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
  for more, good in (("", True), ("--xla_tpu_no_such_flag=1", False)):
    environment = {**os.environ, **quiet, "JAX_PLATFORMS": "cpu", "LIBTPU_INIT_ARGS": more}
    line = ["bash", "-c", f'source {LAUNCH}/env.sh tpu && exec {sys.executable} -c "$0"', program]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) is good, done.stderr[-500:]


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck(script):
  checker = pathlib.Path(sys.executable).parent / "shellcheck"
  assert checker.is_file(), "pip install -e '.[test]' brings shellcheck"
  done = subprocess.run([str(checker), "-x", script], cwd=LAUNCH, capture_output=True, text=True, timeout=60)
  assert done.returncode == 0, done.stdout


def test_the_guide_names_every_script():
  guide = (LAUNCH / "README.md").read_text()
  for script in [*SCRIPTS, "local.py"]:
    assert re.search(rf"\b{re.escape(script)}", guide), script
