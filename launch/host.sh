#!/usr/bin/env bash
# Starts one host's part of a run. The other scripts call it on every host.
#
#   launch/host.sh run   [--platform=tpu] [--restarts=3] -- train --config=... --workdir=...    in the foreground
#   launch/host.sh start [the same]                                                             in the background, with a log
#   launch/host.sh stop | status | log
#
# --processes=COUNT is for commands whose processes work on one share each: host.sh passes this host's index on as JAX_PROCESS_ID.
#
# A process that dies takes the run with it: the others notice within --heartbeat_seconds and end. Each host then restarts its process, up
# to --restarts times; all of them join, and the run continues from the last checkpoint. A process with a share is restarted alone.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

state=${IVID_STATE:-$HOME/.ivid_run}
metadata=${IVID_METADATA:-http://metadata.google.internal/computeMetadata/v1/instance/attributes}
flag=([platform]=tpu [restarts]=3 [pause]=10 [processes]="")
parse "run start stop status log" "$@"

in_words() { # describes an exit status of the shell
  if (($1 > 128)); then
    printf 'was ended by SIG%s%s' "$(kill -l $(($1 - 128)))" "$( (($1 == 137)) && printf ' (kill -9, or out of memory)' || true)"
  else
    printf 'ended with status %d' "$1"
  fi
}

# share: tells the process its index, and lets it see only its own devices.
share() {
  local index=${SLURM_PROCID:-${TPU_WORKER_ID:-}} gpus
  # On a TPU VM, ask the machine itself, as JAX does.
  [[ -n $index ]] || index=$(curl -sf --max-time 10 -H Metadata-Flavor:Google "$metadata/agent-worker-number") || fail "no SLURM_PROCID, TPU_WORKER_ID or TPU VM tells which of the ${flag[processes]} processes this is"
  export JAX_PROCESS_ID=$index JAX_NUM_PROCESSES=${flag[processes]}
  if [[ ${flag[platform]} == gpu && -n ${SLURM_LOCALID:-} ]]; then
    # Give it one of the node's GPUs. Processes that join pick their own, but these do not know of the others.
    IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}"
    export CUDA_VISIBLE_DEVICES=${gpus[SLURM_LOCALID]:-$SLURM_LOCALID}
  elif [[ ${flag[platform]} == tpu ]] && ((flag[processes] > 1)); then
    # Make the host's four chips a slice of their own; otherwise libtpu waits for the other hosts.
    export TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 TPU_WORKER_ID=0 TPU_WORKER_HOSTNAMES=localhost
  fi
}

run_here() {
  # shellcheck source=env.sh
  source "$here/env.sh" "${flag[platform]}"
  if [[ -n ${flag[processes]} ]]; then share; fi
  local attempt=0 status child stopping=0
  trap 'stopping=1; kill -TERM "$child" 2>/dev/null || true' TERM INT
  cd "$here/.."
  while :; do
    say "$(hostname): ivid ${command[*]}"
    "${PYTHON:-python3}" -m ivid "${command[@]}" &
    child=$!
    status=0
    wait "$child" || status=$?
    while ((stopping)); do # a signal ended the wait, not the process
      status=0
      wait "$child" || status=$?
      if ! kill -0 "$child" 2>/dev/null; then break; fi
    done
    if ((status == 0)); then
      say "$(hostname): the run ended well"
      return 0
    fi
    say "$(hostname): the process $(in_words "$status"); if a process on another host died first, that host's log says so"
    if ((stopping || attempt >= flag[restarts])); then return "$status"; fi
    attempt=$((attempt + 1))
    say "$(hostname): restarts in ${flag[pause]} s ($attempt of ${flag[restarts]}) and continues"
    sleep "${flag[pause]}"
    if ((stopping)); then return "$status"; fi # asked to end while waiting: there is nothing to save
  done
}

alive() { [[ -s $state/pid ]] && kill -0 "$(<"$state/pid")" 2>/dev/null; }

case $action in
  run)
    need_command
    if ((dry_run)); then run "${PYTHON:-python3}" -m ivid "${command[@]}"; else run_here; fi
    ;;
  start)
    need_command
    mkdir -p "$state"
    if alive; then fail "a run is already in progress here (process $(<"$state/pid")): launch/host.sh stop ends it"; fi
    line=("$here/host.sh" run "--platform=${flag[platform]}" "--restarts=${flag[restarts]}" "--pause=${flag[pause]}" "--processes=${flag[processes]}" -- "${command[@]}")
    if ((dry_run)); then
      run "${line[@]}"
    else
      setsid nohup "${line[@]}" >>"$state/log" 2>&1 </dev/null &
      echo $! >"$state/pid"
      say "$(hostname): started as process $!, log in $state/log"
    fi
    ;;
  stop)
    if ! alive; then
      say "$(hostname): nothing runs here"
    elif run kill -TERM "$(<"$state/pid")"; then
      say "$(hostname): asked the run to save and end"
    fi
    ;;
  status)
    if alive; then say "$(hostname): running as process $(<"$state/pid")"; else say "$(hostname): nothing runs here"; fi
    if [[ -s $state/log ]]; then tail -n 1 "$state/log"; fi
    ;;
  log) run tail -n 200 -F "$state/log" ;;
esac
