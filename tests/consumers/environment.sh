#!/usr/bin/env bash
# Makes one virtual environment for each reader: tests/consumers/environment.sh DIR [NAME...]
# Then: CURATE_CONSUMERS=DIR pytest -m consumers
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
folder="${1:?a folder for the environments}"
shift
[ $# -gt 0 ] || set -- $(cd "$here/requirements" && ls *.txt | sed 's/\.txt$//')
mkdir -p "$folder"
for name in "$@"; do
    echo "+ $name"
    if command -v uv > /dev/null; then
        uv venv --quiet --allow-existing "$folder/$name"
        uv pip install --quiet --python "$folder/$name/bin/python" --requirement "$here/requirements/$name.txt"
    else
        python3 -m venv "$folder/$name"
        "$folder/$name/bin/pip" install --quiet --requirement "$here/requirements/$name.txt"
    fi
done
