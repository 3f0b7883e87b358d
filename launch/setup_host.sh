#!/usr/bin/env bash
# Sets up one host of a slice: installs the Python packages into ~/ivid_env and mounts the bucket.  Usage: setup_host.sh BUCKET MOUNT
# Running it again leaves what is already there. --dry_run after the two arguments prints the commands.
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

# The Python of a slice may be too old; uv installs a newer one.
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
# New files of other hosts are visible at once (neither existing nor missing names are cached), and folders need no marker objects.
if [[ -n ${dry_run:-} ]] || ! mountpoint -q "$mount"; then
  run gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$bucket" "$mount"
fi
echo "launch: $(hostname): ready; gs://$bucket is $mount"
