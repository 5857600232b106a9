#!/bin/sh
# Makes the environment of the peers: sh benchmarks/peers.sh FOLDER; then CURATE_PEERS=FOLDER/bin/python python -m benchmarks
set -eu
python3 -m venv "$1"
here=$(dirname "$0")
# One by one: a peer that cannot be had here must not keep out the others.
grep -v '^#' "$here/peers.txt" | while read -r name; do
    "$1/bin/python" -m pip install --quiet --upgrade "$name" || echo "$name: not to be had here" >&2
done
