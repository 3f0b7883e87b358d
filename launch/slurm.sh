#!/usr/bin/env bash
# Starts a run on GPUs under SLURM, with one process per GPU.
#
#   launch/slurm.sh run --nodes=4 --gpus=8 --time=24:00:00 [--name=base] [--partition=P] [--account=A] -- train --config=... --workdir=...
#   launch/slurm.sh status|logs|stop --name=base
#
# The work folder and this checkout must lie on a file system that all nodes see. JAX reads host, count and rank from SLURM's variables.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

flag=([name]=ivid [nodes]=1 [gpus]=8 [cpus]=8 [time]=24:00:00 [partition]="" [account]="" [grace]=600 [restarts]=0)
parse "run status logs stop" "$@"

start() {
  need_command
  local name
  for name in nodes gpus cpus grace; do
    [[ ${flag[$name]} =~ ^[1-9][0-9]*$ ]] || fail "--$name=${flag[$name]}: expected a positive whole number"
  done
  hosts=$((flag[nodes] * flag[gpus])) chips=$hosts # one process and one device for each GPU
  local wanted own job step together=1
  if shares; then together=0; fi # one dead task leaves the others at work
  read -ra wanted <<<"$(expected)"
  read -ra own <<<"$(numbered)"
  # --cpus-per-task: since Slurm 22.05 srun takes none from sbatch. --kill-on-bad-exit: one dead task ends the step at once, instead of leaving the others to their heartbeats.
  step=$(printf '%q ' srun "--kill-on-bad-exit=$together" --label "--cpus-per-task=${flag[cpus]}" "$here/host.sh" run --platform=gpu "--restarts=${flag[restarts]}" "${own[@]}" -- "${command[@]}" "${wanted[@]}")
  # --signal: sends SIGTERM to the tasks so many seconds before the time is up; they save and end. --requeue: resumes after a node failed.
  # GPUs are not bound to tasks: JAX picks one per task by local rank, and NCCL needs to see its neighbours.
  job=(
    sbatch "--job-name=${flag[name]}" "--nodes=${flag[nodes]}" "--ntasks-per-node=${flag[gpus]}" "--gpus-per-node=${flag[gpus]}"
    "--cpus-per-task=${flag[cpus]}" "--time=${flag[time]}" "--signal=TERM@${flag[grace]}" --requeue --open-mode=append "--output=${flag[name]}.log"
  )
  [[ -z ${flag[partition]} ]] || job+=("--partition=${flag[partition]}")
  [[ -z ${flag[account]} ]] || job+=("--account=${flag[account]}")
  run "${job[@]}" "--wrap=$step"
}

case $action in
  run) start ;;
  status) run squeue --me "--name=${flag[name]}" ;;
  logs) run tail -n 200 -F "${flag[name]}.log" ;;
  stop) run scancel --signal=TERM "--name=${flag[name]}" --me ;;
esac
