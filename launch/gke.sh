#!/usr/bin/env bash
# Manages a TPU slice on GKE with XPK (pip install xpk). launch/README.md lists what is needed.
#
#   launch/gke.sh create --cluster=ivid --type=v5p-256 --zone=us-east5-a --project=PROJECT --bucket=BUCKET [--spot=1] [--reservation=NAME]
#   launch/gke.sh run    --cluster=ivid --type=v5p-256 --zone=us-east5-a --project=PROJECT --name=base -- train --config=... --workdir=...
#   launch/gke.sh status|logs|stop|delete --cluster=ivid --zone=us-east5-a --project=PROJECT --name=base
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

flag=(
  [cluster]="" [name]="" [zone]="" [project]="" [type]="" [bucket]="" [mount]=/mnt/ivid [image]=python:3.12 [restarts]=3 [spot]="" [reservation]=""
)
parse "create run status logs stop delete" "$@"
need cluster zone project
place=("--cluster=${flag[cluster]}" "--zone=${flag[zone]}" "--project=${flag[project]}")

create() {
  need type bucket
  slice "${flag[type]}"
  say "${flag[type]}: $chips chips on $hosts host(s)"
  local capacity=--on-demand
  if [[ -n ${flag[spot]} ]]; then capacity=--spot; fi
  if [[ -n ${flag[reservation]} ]]; then capacity=--reservation=${flag[reservation]}; fi
  run xpk cluster create "${place[@]}" "--tpu-type=${flag[type]}" --num-slices=1 "$capacity" --enable-gcsfuse-csi-driver
  run xpk storage attach ivid --type=gcsfuse "${place[@]}" "--bucket=${flag[bucket]}" "--mount-point=${flag[mount]}" --readonly=false --size=1 \
    --auto-mount=false --mount-options=implicit-dirs,metadata-cache:ttl-secs:0
}

start() {
  need type name
  need_command
  slice "${flag[type]}"
  local wanted line
  read -ra wanted <<<"$(expected)"
  line=$(printf '%q ' "${command[@]}" "${wanted[@]}")
  # XPK copies this checkout over the image. exec lets SIGTERM reach host.sh. GKE does the restarts, since a lost pod starts elsewhere.
  run xpk workload create "${place[@]}" "--workload=${flag[name]}" "--tpu-type=${flag[type]}" --num-slices=1 "--max-restarts=${flag[restarts]}" \
    "--base-docker-image=${flag[image]}" "--script-dir=$here/.." --storage=ivid \
    "--command=pip install -q '.[cloud,tpu]' && export IVID_SHARED=$(printf '%q' "${flag[mount]}") && exec bash launch/host.sh run --platform=tpu --restarts=0 $(numbered) -- $line"
}

case $action in
  create) create ;;
  run) start ;;
  status) run xpk workload list "${place[@]}" ;;
  logs)
    need name
    run kubectl logs --follow --prefix --max-log-requests=256 "--selector=jobset.sigs.k8s.io/jobset-name=${flag[name]}"
    ;;
  stop)
    need name
    run xpk workload delete "${place[@]}" "--workload=${flag[name]}"
    ;;
  delete) run xpk cluster delete "${place[@]}" ;;
esac
