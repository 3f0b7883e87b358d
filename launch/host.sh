#!/usr/bin/env bash
# One host's part of a run; the other scripts call it on every host.
#
#   launch/host.sh run   [--platform=tpu] [--restarts=3] -- train --config=... --workdir=...    in the foreground
#   launch/host.sh start [the same]                                                             behind, with a log
#   launch/host.sh stop | status | log
#
# --processes=COUNT, for commands that make a share each: this host's place among them is found, and told as JAX_PROCESS_ID.
#
# A process that dies takes the run with it: the others notice within --heartbeat_seconds and end. Each host then starts its own again, all
# meet, and the run goes on from the last checkpoint; after --restarts times it stays down. A process with a share is started again alone.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

state=${IVID_STATE:-$HOME/.ivid_run}
metadata=${IVID_METADATA:-http://metadata.google.internal/computeMetadata/v1/instance/attributes}
flag=([platform]=tpu [restarts]=3 [pause]=10 [processes]="")
parse "run start stop status log" "$@"

in_words() { # a status of the shell
  if (($1 > 128)); then
    printf 'was ended by SIG%s%s' "$(kill -l $(($1 - 128)))" "$( (($1 == 137)) && printf ' (kill -9, or out of memory)' || true)"
  else
    printf 'ended with status %d' "$1"
  fi
}

# share: tells the process which one it is, and leaves it its own devices alone.
share() {
  local index=${SLURM_PROCID:-${TPU_WORKER_ID:-}} gpus
  # On a TPU VM the machine itself is asked, as JAX does.
  [[ -n $index ]] || index=$(curl -sf --max-time 10 -H Metadata-Flavor:Google "$metadata/agent-worker-number") || fail "no SLURM_PROCID, TPU_WORKER_ID or TPU VM tells which of the ${flag[processes]} processes this is"
  export JAX_PROCESS_ID=$index JAX_NUM_PROCESSES=${flag[processes]}
  if [[ ${flag[platform]} == gpu && -n ${SLURM_LOCALID:-} ]]; then
    # One of the GPUs that the node has: processes that join pick theirs by themselves, these know of no others.
    IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}"
    export CUDA_VISIBLE_DEVICES=${gpus[SLURM_LOCALID]:-$SLURM_LOCALID}
  elif [[ ${flag[platform]} == tpu ]] && ((flag[processes] > 1)); then
    # The host's four chips as a slice of their own: without these libtpu waits for the other hosts.
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
    while ((stopping)); do # a signal ended the waiting, not the process
      status=0
      wait "$child" || status=$?
      if ! kill -0 "$child" 2>/dev/null; then break; fi
    done
    if ((status == 0)); then
      say "$(hostname): the run ended well"
      return 0
    fi
    say "$(hostname): the process $(in_words "$status"); if another host's died first, its log says so"
    if ((stopping || attempt >= flag[restarts])); then return "$status"; fi
    attempt=$((attempt + 1))
    say "$(hostname): starts again in ${flag[pause]} s ($attempt of ${flag[restarts]}) and goes on"
    sleep "${flag[pause]}"
    if ((stopping)); then return "$status"; fi # asked to end while it waited: there is nothing to save
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
    if alive; then fail "a run is going on here (process $(<"$state/pid")): launch/host.sh stop ends it"; fi
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
      say "$(hostname): asked to save and end"
    fi
    ;;
  status)
    if alive; then say "$(hostname): runs as process $(<"$state/pid")"; else say "$(hostname): nothing runs here"; fi
    if [[ -s $state/log ]]; then tail -n 1 "$state/log"; fi
    ;;
  log) run tail -n 200 -F "$state/log" ;;
esac
