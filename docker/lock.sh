#!/bin/sh
# Pins everything an image installs, with hashes and without index addresses: docker/lock.sh [cpu]
# Needs uv, and takes packages from where uv is told to. `cpu` also wants an index of torch's CPU wheels.
set -eu
cd "$(dirname "$0")/.."
lock() {
  uv pip compile - --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
    --python-version 3.11 --output-file "docker/requirements-$1.txt"
}
wanted() { python3 -c 'import sys, tomllib; print("\n".join(d for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"] if d.split(">=")[0] not in sys.argv[1:]))' "$@"; }
training="torch torchvision timm webdataset scikit-learn safetensors"
if [ "${1:-}" = cpu ]; then
  version="$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' docker/requirements-gpu.txt)"
  { wanted torch; echo "torch==$version+cpu"; } | lock cpu
else
  wanted | lock gpu
  # shellcheck disable=SC2086
  { wanted $training; echo "-c docker/requirements-gpu.txt"; } | lock light
  echo "hatchling" | lock build
fi
