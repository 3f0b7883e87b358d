#!/usr/bin/env bash
# Once on each host of a slice: Python's packages into ~/ivid_env, and the bucket as a folder.  setup_host.sh BUCKET MOUNT
# Running it again changes nothing that is there. --dry_run behind the two prints the commands.
set -euo pipefail

bucket=${1:?expected BUCKET MOUNT} mount=${2:?expected BUCKET MOUNT}
checkout=$(cd "$(dirname "$0")/.." && pwd)

run() {
  if [[ ${dry_run:-} ]]; then
    printf '%q ' "$@" && printf '\n'
  else
    "$@"
  fi
}
if [[ ${3:-} == --dry_run ]]; then dry_run=1; fi

# Slices come with a Python that may be older than ours; uv brings one.
if [[ ! -x $HOME/ivid_env/bin/python ]]; then
  run python3 -m pip install --quiet --user uv
  run python3 -m uv venv --quiet --python 3.12 "$HOME/ivid_env"
fi
run python3 -m uv pip install --quiet --python "$HOME/ivid_env/bin/python" --editable "${checkout}[cloud,tpu]"

if [[ -n ${dry_run:-} ]] || ! command -v gcsfuse >/dev/null; then
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-jammy}")
  list="deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-$codename main"
  run sudo sh -c "echo '$list' >/etc/apt/sources.list.d/gcsfuse.list"
  run sudo curl -sSo /usr/share/keyrings/cloud.google.asc https://packages.cloud.google.com/apt/doc/apt-key.gpg
  run sudo apt-get -qq update
  run sudo apt-get -qq install -y gcsfuse
fi
run sudo mkdir -p "$mount"
run sudo chown "$(id -u):$(id -g)" "$mount"
# Other hosts' new files show at once (no caching of what is there and what not), and folders need no marker objects.
if [[ -n ${dry_run:-} ]] || ! mountpoint -q "$mount"; then
  run gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$bucket" "$mount"
fi
echo "launch: $(hostname): ready; gs://$bucket is $mount"
