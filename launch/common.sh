# shellcheck shell=bash
# What the launch scripts share: flags as --name=value, --dry_run, and the sizes of TPU slices. To be sourced.

# shellcheck disable=SC2034  # for the scripts that source this
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
declare -A flag # name -> value; each script fills it with its defaults before it calls parse
action=""
command=()
dry_run=0

say() { printf 'launch: %s\n' "$*"; }

fail() {
  printf '%s: error: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

# parse ACTIONS ARGUMENT...: the action, the flags, and behind -- the ivid command.
parse() {
  local actions=$1 name
  shift
  action=${1:-}
  [[ " $actions " == *" $action "* && $action != *" "* && -n $action ]] || fail "first comes ${action:-nothing}: expected one of $actions"
  shift
  while (($#)); do
    case $1 in
      --) shift && command=("$@") && break ;;
      --dry_run) dry_run=1 ;;
      --*=*)
        name=${1%%=*} && name=${name#--}
        [[ -v flag[$name] ]] || fail "unknown flag --$name: expected one of --dry_run $(printf -- '--%s= ' "${!flag[@]}")"
        flag[$name]=${1#*=}
        ;;
      *) fail "$1: expected --name=value, or -- and an ivid command" ;;
    esac
    shift
  done
}

# need NAME...: flags that must have a value.
need() {
  local name
  for name in "$@"; do
    [[ -n ${flag[$name]} ]] || fail "--$name is missing (launch/README.md says what it is)"
  done
}

# need_command: what stands behind -- must be a command whose processes join, or each make a share.
need_command() {
  local first=${command[*]:0:2}
  case $first in
    train | "train "* | distill | "distill "* | sample | "sample "* | evaluate | "evaluate "* | "data prepare" | "data embed") ;;
    *) fail "behind -- stands '${first:-nothing}': expected train, distill, sample, evaluate, data prepare or data embed, and its flags" ;;
  esac
}

# shares: whether each process makes a share by itself, and needs none of the others.
shares() { [[ ${command[0]} == sample || ${command[0]} == evaluate || ${command[0]} == data ]]; }

# run COMMAND...: runs it; with --dry_run only prints it.
run() {
  if ((dry_run)); then
    printf '%q ' "$@" && printf '\n'
  else
    "$@"
  fi
}

# slice TYPE: sets chips and hosts of a TPU slice. v4 and v5p count TensorCores (two a chip), the others chips; a host has four chips,
# but for the single host with eight of v5e and v6e. JAX sees a chip as one device.
slice() {
  local kind=${1%-*} size=${1##*-}
  [[ $1 == *-* && $size =~ ^[1-9][0-9]*$ ]] || fail "--type=$1: expected such as v5p-256"
  case $kind in
    v4 | v5p) chips=$((size / 2)) ;;
    v5litepod | v6e) chips=$size ;;
    *) fail "--type=$1: expected v4-, v5p-, v5litepod- or v6e- and a size, such as v5p-256" ;;
  esac
  ((chips > 0 && (chips < 4 || chips % 4 == 0))) || fail "--type=$1: no such slice"
  hosts=$(((chips + 3) / 4))
  if [[ $kind != v4 && $kind != v5p && $size == 8 ]]; then hosts=1; fi
}

# expected: the flags that make another number of hosts or chips an error.
expected() { printf -- '--multihost=on --expected_processes=%d --expected_devices=%d' "$hosts" "$chips"; }

# numbered: for host.sh, of how many processes with shares it starts one; empty for those that join.
numbered() { if shares; then printf -- '--processes=%d' "$hosts"; fi; }
