#!/usr/bin/env bash
# Manages a TPU slice with gcloud, from creation to logs. launch/README.md describes all steps.
#
#   launch/tpu_pod.sh create --name=base --type=v5p-256 --zone=us-east5-a --project=PROJECT [--spot=1] [--queued=1] [--reserved=1]
#   launch/tpu_pod.sh setup  --name=base --zone=us-east5-a --project=PROJECT --bucket=BUCKET
#   launch/tpu_pod.sh run    --name=base --type=v5p-256 --zone=us-east5-a --project=PROJECT -- train --config=... --workdir=...
#   launch/tpu_pod.sh status|logs|stop|delete --name=base --zone=us-east5-a --project=PROJECT
#
# --dry_run prints the commands instead of running them.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

flag=(
  [name]="" [zone]="" [project]="" [type]="" [bucket]="" [mount]=/mnt/ivid [worker]=0 [restarts]=3
  [version]="" [spot]="" [queued]="" [reserved]=""
)
parse "create setup run status logs stop delete" "$@"
need name zone project
place=("--zone=${flag[zone]}" "--project=${flag[project]}")
tpu=(gcloud compute tpus tpu-vm)

# The images that contain the driver of each TPU family.
runtime() {
  case ${flag[type]} in
    v4-*) echo tpu-ubuntu2204-base ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
  esac
}

# on WORKER COMMAND: runs the command in a shell on one host or on all hosts.
on() { run "${tpu[@]}" ssh "${flag[name]}" "${place[@]}" "--worker=$1" "--command=$2"; }

create() {
  need type
  slice "${flag[type]}"
  say "${flag[type]}: $chips chips on $hosts host(s)"
  local line=("--accelerator-type=${flag[type]}" "--runtime-version=${flag[version]:-$(runtime)}")
  [[ -z ${flag[spot]} ]] || line+=(--spot)
  [[ -z ${flag[reserved]} ]] || line+=(--reserved)
  if [[ -n ${flag[queued]} ]]; then
    run gcloud compute tpus queued-resources create "${flag[name]}" "--node-id=${flag[name]}" "${place[@]}" "${line[@]}"
  else
    run "${tpu[@]}" create "${flag[name]}" "${place[@]}" "${line[@]/--runtime-version=/--version=}"
  fi
}

setup() {
  need bucket
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  # shellcheck disable=SC2064  # expand the name now
  trap "rm -f '$archive'" EXIT
  run tar -C "$here/.." --exclude=./.git --exclude=./runs --exclude=./out --exclude=__pycache__ -czf "$archive" .
  run "${tpu[@]}" scp "$archive" "${flag[name]}:ivid.tar.gz" "${place[@]}" --worker=all
  on all "mkdir -p ivid && tar -C ivid -xzf ivid.tar.gz && bash ivid/launch/setup_host.sh $(printf '%q %q' "${flag[bucket]}" "${flag[mount]}")"
}

start() {
  need type
  need_command
  slice "${flag[type]}"
  local line wanted
  read -ra wanted <<<"$(expected)"
  line=$(printf '%q ' "${command[@]}" "${wanted[@]}")
  on all "IVID_SHARED=$(printf '%q' "${flag[mount]}") PYTHON=\$HOME/ivid_env/bin/python bash ivid/launch/host.sh start --platform=tpu --restarts=${flag[restarts]} $(numbered) -- $line"
  say "follow with: launch/tpu_pod.sh logs --name=${flag[name]} --zone=${flag[zone]} --project=${flag[project]}"
}

case $action in
  create) create ;;
  setup) setup ;;
  run) start ;;
  status)
    run "${tpu[@]}" describe "${flag[name]}" "${place[@]}" "--format=value(state,health)"
    on all "bash ivid/launch/host.sh status"
    ;;
  logs) on "${flag[worker]}" "bash ivid/launch/host.sh log" ;;
  stop) on all "bash ivid/launch/host.sh stop" ;;
  delete)
    if [[ -n ${flag[queued]} ]]; then
      run gcloud compute tpus queued-resources delete "${flag[name]}" "${place[@]}" --force --quiet
    else
      run "${tpu[@]}" delete "${flag[name]}" "${place[@]}" --quiet
    fi
    ;;
esac
