# shellcheck shell=bash
# Shared by the launch scripts, which source this file: flags of the form --name=value, --dry_run, and the sizes of TPU slices.

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

# parse ACTIONS ARGUMENT...: reads the action, the flags, and the ivid command after --.
parse() {
  local actions=$1 name
  shift
  action=${1:-}
  [[ " $actions " == *" $action "* && $action != *" "* && -n $action ]] || fail "the first argument is ${action:-missing}: expected one of $actions"
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
      *) fail "$1: expected --name=value, or -- followed by an ivid command" ;;
    esac
    shift
  done
}

# need NAME...: fails unless each of these flags has a value.
need() {
  local name
  for name in "$@"; do
    [[ -n ${flag[$name]} ]] || fail "--$name is missing (launch/README.md explains it)"
  done
}

# need_command: fails unless the command after -- is one whose processes join or work on a share each.
need_command() {
  local first=${command[*]:0:2}
  case $first in
    train | "train "* | distill | "distill "* | sample | "sample "* | evaluate | "evaluate "* | "data prepare" | "data embed") ;;
    *) fail "the command after -- is '${first:-missing}': expected train, distill, sample, evaluate, data prepare or data embed, and its flags" ;;
  esac
}

# shares: whether each process works on a share by itself and needs none of the others.
shares() { [[ ${command[0]} == sample || ${command[0]} == evaluate || ${command[0]} == data ]]; }

# run COMMAND...: runs the command; with --dry_run it only prints it.
run() {
  if ((dry_run)); then
    printf '%q ' "$@" && printf '\n'
  else
    "$@"
  fi
}

# slice TYPE: sets the chips and hosts of a TPU slice. v4 and v5p types count TensorCores (two per chip), the others count chips. A host has
# four chips, except that v5e and v6e also have a single host with eight. JAX sees each chip as one device.
slice() {
  local kind=${1%-*} size=${1##*-}
  [[ $1 == *-* && $size =~ ^[1-9][0-9]*$ ]] || fail "--type=$1: expected a type such as v5p-256"
  case $kind in
    v4 | v5p) chips=$((size / 2)) ;;
    v5litepod | v6e) chips=$size ;;
    *) fail "--type=$1: expected v4-, v5p-, v5litepod- or v6e- followed by a size, such as v5p-256" ;;
  esac
  ((chips > 0 && (chips < 4 || chips % 4 == 0))) || fail "--type=$1: there is no slice of this size"
  hosts=$(((chips + 3) / 4))
  if [[ $kind != v4 && $kind != v5p && $size == 8 ]]; then hosts=1; fi
}

# expected: prints the flags that make any other number of hosts or chips an error.
expected() { printf -- '--multihost=on --expected_processes=%d --expected_devices=%d' "$hosts" "$chips"; }

# numbered: prints the flag that tells host.sh how many processes share the work; prints nothing for processes that join.
numbered() { if shares; then printf -- '--processes=%d' "$hosts"; fi; }
